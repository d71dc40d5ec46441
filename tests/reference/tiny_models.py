"""The real architectures, built small with random weights and saved as diffusers folders.

Every builder uses the families' own classes (diffusers' denoisers, autoencoders, schedulers and
pipelines, transformers' text encoders and tokenizers) and the scheduler settings of the published
checkpoints; only widths, depths and vocabularies are small. `build(family, folder)` saves one with
`save_pretrained`; what comes out is noise, the path to it is real.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    IFPipeline,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from maquette.common.priors.camera_features import LABELS, SURFACE

Family = Literal[
    "sd15", "sd2v", "sdxl", "if", "sd3", "flux", "flux-schnell", "camera-pixel", "pictured-pixel"
]
FAMILIES: tuple[Family, ...] = ("sd15", "sd2v", "sdxl", "if", "sd3", "flux")
RESOLUTION = 64  # every latent model's, so that its latents are 8 x 8
TEXT_WIDTH = 32
DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def build(family: Family, folder: Path | str, seed: int = 0) -> Path:
    """Save a small random model of `family` into `folder`; the same seed gives the same weights."""
    torch.manual_seed(seed)
    builders = {
        "sd15": _sd15,
        "sd2v": _sd2v,
        "sdxl": _sdxl,
        "if": _deepfloyd,
        "sd3": _sd3,
        "flux": _flux,
        "flux-schnell": _flux_schnell,
        "camera-pixel": _camera_pixel,
        "pictured-pixel": partial(
            _camera_pixel, in_channels=6 + SURFACE, projection_class_embeddings_input_dim=LABELS
        ),
    }
    builders[family]().save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """A byte-level CLIP tokenizer of 77 tokens that knows a few whole words."""
    characters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    merges, words = [], ["red", "chair", "mushroom", "photo"]
    pieces = [*characters, *(c + "</w>" for c in characters)]
    for word in words:
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            merges.append((symbols[0], symbols[1]))
            symbols = [symbols[0] + symbols[1], *symbols[2:]]
            pieces.append(symbols[0])
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = list(dict.fromkeys(merges))
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """A Unigram T5 tokenizer of single letters and a few whole words."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(c), -4.0) for c in range(ord("!"), ord("~") + 1)]
    pieces += [(f"▁{word}", -1.0) for word in ("a", "red", "chair", "mushroom", "photo", "of")]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_encoder(tokenizer: CLIPTokenizer, projected: bool = False, layers: int = 2) -> Any:
    """A CLIP text encoder for `tokenizer`, with or without the projection of its pooled output."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=37,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """A T5 v1.1 encoder for `tokenizer`."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def autoencoder(channels: int = 4, **config: Any) -> AutoencoderKL:
    """A VAE of factor 8 with `channels` latent channels; `config` as in diffusers."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=RESOLUTION,
        **config,
    ).eval()


def unet(**config: Any) -> UNet2DConditionModel:
    """A two-level U-Net with cross attention; `config` overrides."""
    settings: dict[str, Any] = {
        "sample_size": RESOLUTION // 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
    }
    return UNet2DConditionModel(**(settings | config)).eval()


def _sd15() -> StableDiffusionPipeline:
    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=autoencoder(scaling_factor=0.18215),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=PNDMScheduler(**DIFFUSION, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd2v() -> StableDiffusionPipeline:
    tokenizer = clip_tokenizer(pad_token="!")
    return StableDiffusionPipeline(
        vae=autoencoder(scaling_factor=0.18215),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet(use_linear_projection=True, attention_head_dim=(2, 4)),
        scheduler=DDIMScheduler(
            **DIFFUSION,
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> StableDiffusionXLPipeline:
    tokenizer, tokenizer_2 = clip_tokenizer(), clip_tokenizer(pad_token="!")
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025, force_upcast=True),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(tokenizer_2, projected=True, layers=3),
        tokenizer_2=tokenizer_2,
        unet=unet(
            cross_attention_dim=2 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 8,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(**DIFFUSION, steps_offset=1, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _deepfloyd() -> IFPipeline:
    tokenizer = t5_tokenizer()
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer),
        unet=unet(
            sample_size=32,
            in_channels=3,
            out_channels=6,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
            encoder_hid_dim=TEXT_WIDTH,
            encoder_hid_dim_type="text_proj",
            resnet_time_scale_shift="scale_shift",
            time_embedding_type="positional",
            act_fn="gelu",
        ),
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            variance_type="learned_range",
            prediction_type="epsilon",
            thresholding=True,
            dynamic_thresholding_ratio=0.95,
            sample_max_value=1.5,
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def _camera_pixel(**told: int) -> IFPipeline:
    """A small pixel model that reads CLIP text and is told the camera as class labels.

    told: other channels and labels, for one that is told a picture as well.
    """
    tokenizer = clip_tokenizer()
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=clip_encoder(tokenizer),
        unet=unet(
            sample_size=32,
            **{
                "in_channels": 3,
                "out_channels": 3,
                "class_embed_type": "projection",
                "projection_class_embeddings_input_dim": 12,
                **told,
            },
        ),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def _sd3() -> StableDiffusion3Pipeline:
    tokenizer, tokenizer_2, tokenizer_3 = clip_tokenizer(), clip_tokenizer("!"), t5_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=RESOLUTION // 8,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * TEXT_WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * TEXT_WIDTH,
            out_channels=16,
            pos_embed_max_size=16,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(
            16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=clip_encoder(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(tokenizer_2, projected=True),
        tokenizer_2=tokenizer_2,
        text_encoder_3=_wide_t5(tokenizer_3),
        tokenizer_3=tokenizer_3,
    )


def _wide_t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """SD 3 pads its two CLIP embeddings side by side to T5's width."""
    config = T5Config(
        vocab_size=len(tokenizer), d_model=2 * TEXT_WIDTH, d_kv=8, d_ff=37, num_layers=1,
        num_heads=4, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def _flux(guidance_embeds: bool = True, **schedule: Any) -> FluxPipeline:
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    schedule = schedule or {"shift": 3.0, "use_dynamic_shifting": True}
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            **schedule, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        vae=autoencoder(
            16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(tokenizer_2),
        tokenizer_2=tokenizer_2,
        transformer=FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        ).eval(),
    )  # fmt: skip


def _flux_schnell() -> FluxPipeline:
    return _flux(guidance_embeds=False, shift=1.0, use_dynamic_shifting=False)


def build_zero123(folder: Path | str, own: str = "clip_camera_projection", seed: int = 0) -> Path:
    """Save a small random Zero-1-to-3 in the layout of the public conversions.

    own: the sub-folder of its one layer, whose keys go with it.
    """
    torch.manual_seed(seed)
    folder = Path(folder)
    vision = CLIPVisionConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        patch_size=56,
        projection_dim=24,
    )
    parts: dict[str, Any] = {
        "vae": autoencoder(scaling_factor=0.18215),
        "unet": unet(in_channels=8),
        "image_encoder": CLIPVisionModelWithProjection(vision).eval(),
        "scheduler": DDIMScheduler(**DIFFUSION, clip_sample=False, steps_offset=1),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    key = "proj" if own == "clip_camera_projection" else "projection"
    layer = torch.nn.Linear(24 + 4, TEXT_WIDTH)
    (folder / own).mkdir()
    weights = {f"{key}.{name}": value.detach() for name, value in layer.named_parameters()}
    save_file(weights, folder / own / "diffusion_pytorch_model.safetensors")
    index = {name: ["a library", type(part).__name__] for name, part in parts.items()}
    index |= {own: ["zero123", "CLIPCameraProjection"], "feature_extractor": ["x", "Y"]}
    text = json.dumps({"_class_name": "Zero123Pipeline", **index})
    (folder / "model_index.json").write_text(text)
    return folder


MVDREAM_UNET = {
    "image_size": RESOLUTION // 8, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "attention_resolutions": [2, 1], "num_res_blocks": 1, "channel_mult": [1, 2],
    "num_head_channels": 16, "transformer_depth": 1, "context_dim": TEXT_WIDTH, "camera_dim": 16,
}  # fmt: skip


def build_mvdream(folder: Path | str, seed: int = 0) -> Path:
    """Save a small random MVDream: its U-Net under the original repository's names."""
    torch.manual_seed(seed)
    folder = Path(folder)
    tokenizer = clip_tokenizer(pad_token="!")
    parts: dict[str, Any] = {
        "vae": autoencoder(scaling_factor=0.18215),
        "text_encoder": clip_encoder(tokenizer),
        "tokenizer": tokenizer,
        "scheduler": DDIMScheduler(**DIFFUSION, clip_sample=False, steps_offset=1),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_text(json.dumps(MVDREAM_UNET))
    save_file(mvdream_weights(), folder / "unet" / "diffusion_pytorch_model.safetensors")
    index = {name: ["a library", type(part).__name__] for name, part in parts.items()}
    index["unet"] = ["mv_unet", "MultiViewUNetModel"]
    text = json.dumps({"_class_name": "MVDreamPipeline", **index})
    (folder / "model_index.json").write_text(text)
    return folder


def mvdream_weights() -> dict[str, torch.Tensor]:
    """Random weights of `MVDREAM_UNET` by the names of the original U-Net, written out by hand.

    Two levels of 32 and 64 channels, one residual block and one transformer a level.
    """
    weights: dict[str, torch.Tensor] = {}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        weights[f"{name}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
        if bias:
            weights[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    def conv(name: str, inputs: int, outputs: int, side: int = 3) -> None:
        scale = (inputs * side * side) ** 0.5
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, side, side) / scale
        weights[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = 1.0 + 0.1 * torch.randn(width)
        weights[f"{name}.bias"] = 0.1 * torch.randn(width)

    def block(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}.in_layers.0", inputs)
        conv(f"{name}.in_layers.2", inputs, outputs)
        linear(f"{name}.emb_layers.1", 128, outputs)
        norm(f"{name}.out_layers.0", outputs)
        conv(f"{name}.out_layers.3", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.skip_connection", inputs, outputs, 1)

    def transformer(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        linear(f"{name}.proj_in", width, width)
        linear(f"{name}.proj_out", width, width)
        inner = f"{name}.transformer_blocks.0"
        for number, context in ((1, width), (2, TEXT_WIDTH)):
            for key, inputs in (("to_q", width), ("to_k", context), ("to_v", context)):
                linear(f"{inner}.attn{number}.{key}", inputs, width, bias=False)
            linear(f"{inner}.attn{number}.to_out.0", width, width)
        for number in (1, 2, 3):
            norm(f"{inner}.norm{number}", width)
        linear(f"{inner}.ff.net.0.proj", width, 8 * width)
        linear(f"{inner}.ff.net.2", 4 * width, width)

    linear("time_embed.0", 32, 128)
    linear("time_embed.2", 128, 128)
    linear("camera_embed.0", 16, 128)
    linear("camera_embed.2", 128, 128)
    conv("input_blocks.0.0", 4, 32)
    block("input_blocks.1.0", 32, 32)
    transformer("input_blocks.1.1", 32)
    conv("input_blocks.2.0.op", 32, 32)
    block("input_blocks.3.0", 32, 64)
    transformer("input_blocks.3.1", 64)
    block("middle_block.0", 64, 64)
    transformer("middle_block.1", 64)
    block("middle_block.2", 64, 64)
    block("output_blocks.0.0", 64 + 64, 64)
    transformer("output_blocks.0.1", 64)
    block("output_blocks.1.0", 64 + 32, 64)
    transformer("output_blocks.1.1", 64)
    conv("output_blocks.1.2.conv", 64, 64)
    block("output_blocks.2.0", 64 + 32, 32)
    transformer("output_blocks.2.1", 32)
    block("output_blocks.3.0", 32 + 32, 32)
    transformer("output_blocks.3.1", 32)
    norm("out.0", 32)
    conv("out.2", 32, 4)
    return weights

"""Real architectures, small and random, through the product's door against their own pipelines.

The pipelines run their own denoising step; what they gave the denoiser and what came out of their
guidance is recorded and compared with the adapter under the same guidance. Nothing is downloaded.
"""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from maquette.common.config.priors import PriorConfig
from maquette.common.errors import UserError
from maquette.common.priors.base import Condition, TextEmbedding
from maquette.common.priors.camera_features import camera_features
from maquette.common.priors.flow import pack_latents, unpack_latents
from maquette.common.priors.latents import normalise_latents
from maquette.common.priors.loading import load_prior
from maquette.common.priors.noise import to_noise
from maquette.common.priors.pretrained import PretrainedPrior
from maquette.common.scene.cameras import Cameras, orbit
from tests.reference.tiny_models import FAMILIES, RESOLUTION, build

PROMPT = "A photo of a red Chair"
GUIDANCE = 7.5


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    names = (*FAMILIES, "flux-schnell", "camera-pixel")
    return {name: build(name, root / name) for name in names}


def options(folder: Path, **changes: Any) -> PriorConfig:
    resolution = 32 if folder.name in ("if", "camera-pixel") else RESOLUTION
    return PriorConfig(**{"name": str(folder), "resolution": resolution, **changes})


@dataclass
class Step:
    """One denoising step of a pipeline: what its denoiser was given, what its guidance made."""

    x: Tensor
    t: float
    guided: Tensor


def record(pipeline: Any, **call: Any) -> list[Step]:
    """Run `pipeline` for two steps and record them; x is what the denoiser was really given."""
    seen: list[Tensor] = []
    steps: list[Step] = []
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    step = pipeline.scheduler.step

    def watch(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"])[:1].clone())

    def stepped(output: Tensor, t: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        steps.append(Step(seen[-1], float(t), output.clone()))
        return step(output, t, sample, *args, **kwargs)

    hook = denoiser.register_forward_pre_hook(watch, with_kwargs=True)
    pipeline.scheduler.step = stepped
    pipeline.set_progress_bar_config(disable=True)
    try:
        generator = torch.Generator().manual_seed(3)
        pipeline(PROMPT, generator=generator, **call)
    finally:
        hook.remove()
        pipeline.scheduler.step = step
    return steps


def guided(
    prior: PretrainedPrior, x: Tensor, t: int, negative: str = "", scale: float = GUIDANCE
) -> Tensor:
    """Classifier-free guidance over the adapter, both rows in one batch."""
    text = prior.encode_text([negative, PROMPT])
    noise = prior.predict_noise(x.repeat(2, 1, 1, 1), torch.tensor([t, t]), Condition(text))
    assert (noise[0] - noise[1]).abs().max() > 1e-4  # the prompt matters at all
    return noise[:1] + scale * (noise[1:] - noise[:1])


def own_pipeline(folder: Path) -> Any:
    return DiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("negative", ["", "red mushroom"])
@pytest.mark.parametrize("family", ["sd15", "sd2v", "sdxl", "if"])
def test_unets_equal_their_pipelines(models: dict[str, Path], family: str, negative: str) -> None:
    pipeline = own_pipeline(models[family])
    steps = record(
        pipeline,
        num_inference_steps=2,
        guidance_scale=GUIDANCE,
        negative_prompt=negative or None,
        output_type="pt" if family == "if" else "latent",
    )
    prior = load_prior(options(models[family]))
    for step in (steps[0], steps[-1]):
        t = int(step.t)
        expected = step.guided[:, : step.x.shape[1]].double()
        if family == "sd2v":
            product = float(pipeline.scheduler.alphas_cumprod[t])
            expected = math.sqrt(product) * expected + math.sqrt(1 - product) * step.x.double()
        noise = guided(prior, step.x, t, negative)
        torch.testing.assert_close(noise.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "sigmas"), [("sd3", [0.5, 0.1]), ("flux", [0.4, 0.1]), ("flux-schnell", [0.3, 0.1])]
)
def test_flows_equal_their_pipelines(
    models: dict[str, Path], family: str, sigmas: list[float]
) -> None:
    pipeline = own_pipeline(models[family])
    call: dict[str, Any] = {"guidance_scale": GUIDANCE}
    if family != "sd3":
        call = {"guidance_scale": 2.5, "true_cfg_scale": GUIDANCE, "negative_prompt": ""}
    size = {"height": RESOLUTION, "width": RESOLUTION, "output_type": "latent"}
    steps = record(pipeline, num_inference_steps=2, sigmas=sigmas, **size, **call)
    prior = load_prior(options(models[family], embedded_guidance=2.5))
    for step, unshifted in zip(steps, sigmas, strict=True):
        t = round(unshifted * 1000) - 1
        sigma = float(prior.schedule.sigma[t])
        assert sigma == pytest.approx(step.t / 1000, abs=1e-6)
        x, velocity = step.x, step.guided
        if family != "sd3":
            x, velocity = unpack_latents(x, 8, 8), unpack_latents(velocity, 8, 8)
        expected = x.double() + (1 - sigma) * velocity.double()
        noise = guided(prior, x, t)
        torch.testing.assert_close(noise.double(), expected, rtol=1e-5, atol=1e-5)


def test_flow_schedule_ends(models: dict[str, Path]) -> None:
    for family in ("sd3", "flux"):
        schedule = load_prior(options(models[family])).schedule
        assert len(schedule) == 1000
        assert float(schedule.sigma[-1]) == 1.0
        assert float(schedule.alpha[-1]) == 0.0
        assert bool((schedule.sigma.diff() > 0).all())
        torch.testing.assert_close(schedule.alpha + schedule.sigma, torch.ones(1000))


def test_flux_positions_and_packing_are_the_pipelines_own() -> None:
    from diffusers import FluxPipeline

    from maquette.common.priors.flow import patch_positions

    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pack_latents(x), FluxPipeline._pack_latents(x, 2, 3, 4, 6))
    assert torch.equal(unpack_latents(pack_latents(x), 4, 6), x)
    ids = FluxPipeline._prepare_latent_image_ids(2, 2, 3, torch.device("cpu"), torch.float32)
    assert torch.equal(patch_positions(4, 6, x), ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_batch_are_their_own(models: dict[str, Path], family: str) -> None:
    """Unequal timesteps and prompts in one batch give what each row gives alone."""
    prior = load_prior(options(models[family]))
    x = torch.randn(3, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([20, 400, 900])
    text = prior.encode_text([PROMPT, ""]).select([1, 0, 0])
    together = prior.predict_noise(x, t, Condition(text))
    assert together.shape == x.shape
    assert together.dtype == torch.float32
    for i in range(3):
        alone = prior.predict_noise(x[i : i + 1], t[i : i + 1], Condition(text.select([i])))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="batch size"):
        prior.predict_noise(x, t, Condition(text.select([0])))


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_latents_are_scaled_as_the_pipeline_unscales_them(
    models: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the pipeline hands its VAE's decoder for our latents is the VAE's own latent mean."""
    prior = load_prior(options(models[family]))
    image = torch.rand(1, RESOLUTION, RESOLUTION, 3, generator=torch.Generator().manual_seed(2))
    latents = prior.encode_image(image)
    assert latents.shape == (1, *prior.latent_shape)
    pipeline = own_pipeline(models[family])
    pipeline.set_progress_bar_config(disable=True)
    decoded: list[Tensor] = []
    decode, step = pipeline.vae.decode, pipeline.scheduler.step

    def watch(z: Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(z)
        return decode(z, *args, **kwargs)

    def ours(output: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        return (pack_latents(latents) if family == "flux" else latents,)

    monkeypatch.setattr(pipeline.vae, "decode", watch)
    monkeypatch.setattr(pipeline.scheduler, "step", ours)
    pipeline(PROMPT, num_inference_steps=1, height=RESOLUTION, width=RESOLUTION, output_type="pt")
    assert step is not pipeline.scheduler.step
    with torch.no_grad():
        mean = pipeline.vae.encode(2 * image.permute(0, 3, 1, 2) - 1).latent_dist.mean
    torch.testing.assert_close(decoded[0], mean, rtol=1e-5, atol=1e-5)


def test_latent_statistics_undo_the_pipelines() -> None:
    z = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    mean, std = [1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 0.5, 4.0]
    config = {"latents_mean": mean, "latents_std": std, "scaling_factor": 0.5}
    x = normalise_latents(z, config)
    rows = (1, 4, 1, 1)
    back = x * torch.tensor(std).view(rows) / 0.5 + torch.tensor(mean).view(rows)
    torch.testing.assert_close(back, z)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "velocity"])
def test_every_prediction_becomes_the_noise(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    alpha = torch.tensor(0.6, dtype=torch.float64)
    sigma = 1 - alpha if kind == "velocity" else (1 - alpha**2).sqrt()
    output = {
        "epsilon": eps,
        "v_prediction": alpha * eps - sigma * x_0,
        "sample": x_0,
        "velocity": eps - x_0,
    }[kind]
    noise = to_noise(kind, output, alpha * x_0 + sigma * eps, alpha, sigma)
    torch.testing.assert_close(noise, eps)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_reaches_the_image_and_no_weight(models: dict[str, Path], family: str) -> None:
    prior = load_prior(options(models[family]))
    size = prior.resolution
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, size, size, 3, generator=generator).requires_grad_()
    x = prior.encode_image(image)
    cotangent = torch.randn(x.shape, generator=generator)
    noise = prior.predict_noise(x, torch.tensor([300]), Condition(prior.encode_text([PROMPT])))
    assert not noise.requires_grad
    (gradient,) = torch.autograd.grad((x * (cotangent + noise)).sum(), image)
    assert float(gradient.abs().min(dim=-1).values.max()) > 0  # all three colours
    parameters = [*prior.denoiser.parameters(), *(prior.vae.parameters() if prior.vae else [])]
    assert all(p.grad is None and not p.requires_grad for p in parameters)
    assert not prior.denoiser.training


@pytest.mark.parametrize("family", ["sd15", "if", "sd3"])
def test_only_denoise_is_inside_the_graph(models: dict[str, Path], family: str) -> None:
    """An adapter may be trained on the denoiser; `predict_noise` stays out of it all the same."""
    prior = load_prior(options(models[family]))
    prior.denoiser.requires_grad_(True)
    x = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    t, text = torch.tensor([300]), prior.encode_text([PROMPT])
    told = Condition(text)
    outside, inside = prior.predict_noise(x, t, told), prior.denoise(x, t, told)
    assert not outside.requires_grad
    assert inside.requires_grad
    torch.testing.assert_close(outside, inside.detach())
    inside.sum().backward()
    assert any(p.grad is not None for p in prior.denoiser.parameters())


def test_pixel_images_are_themselves_in_minus_one_to_one(models: dict[str, Path]) -> None:
    prior = load_prior(options(models["if"]))
    assert prior.space == "pixel"
    assert prior.latent_shape == (3, 32, 32)
    image = torch.rand(2, 32, 32, 3)
    assert torch.equal(prior.encode_image(image), 2 * image.permute(0, 3, 1, 2) - 1)
    flat = torch.full((1, 96, 64, 3), 0.25)  # another size is resized
    torch.testing.assert_close(prior.encode_image(flat), torch.full((1, 3, 32, 32), -0.5))
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]"):
        prior.encode_image(torch.zeros(1, 3, 32, 32))


def test_vae_slicing_and_recomputing_change_nothing(models: dict[str, Path]) -> None:
    image = torch.rand(2, RESOLUTION, RESOLUTION, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for changes in ({}, {"vae_slicing": True, "checkpoint_vae": True}):
        prior = load_prior(options(models["sd15"], **changes))
        assert prior.vae.use_slicing == bool(changes)
        leaf = image.clone().requires_grad_()
        latents = prior.encode_image(leaf)
        (gradient,) = torch.autograd.grad(latents.square().sum(), leaf)
        found.append((latents.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_attention_slicing_tiling_and_dtype(models: dict[str, Path]) -> None:
    plain = load_prior(options(models["sd15"]))
    x = torch.randn(1, *plain.latent_shape, generator=torch.Generator().manual_seed(0))
    t, text = torch.tensor([500]), plain.encode_text([PROMPT])
    expected = plain.predict_noise(x, t, Condition(text))
    sliced = load_prior(options(models["sd15"], attention_slicing=True, vae_tiling=True))
    assert sliced.vae.use_tiling
    torch.testing.assert_close(
        sliced.predict_noise(x, t, Condition(sliced.encode_text([PROMPT]))),
        expected,
        rtol=1e-4,
        atol=1e-5,
    )
    half = load_prior(options(models["sd15"], dtype="bfloat16"))
    noise = half.predict_noise(x, t, Condition(half.encode_text([PROMPT])))
    assert noise.dtype == torch.float32
    assert half.denoiser.dtype == torch.bfloat16
    assert 0 < float((noise - expected).norm() / expected.norm()) < 0.05


def test_text_is_embedded_once_and_its_encoder_freed(models: dict[str, Path]) -> None:
    for family in ("if", "sdxl", "sd3"):
        prior = load_prior(options(models[family]))
        text = prior.encode_text([PROMPT, ""])
        assert isinstance(text, TextEmbedding)
        assert len(text) == 2
        prior.free_text_encoder()
        assert prior.pipeline.text_encoder is None
        x = torch.randn(2, *prior.latent_shape)
        prior.predict_noise(x, torch.tensor([1, 2]), Condition(text))
        with pytest.raises(ValueError, match="freed"):
            prior.encode_text([PROMPT])


def test_a_long_prompt_says_where_it_is_cut(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    prior = load_prior(options(models["sd15"]))
    words = ["red"] * 60 + ["chair"] * 15 + ["mushroom", "photo"]  # one token a word
    with caplog.at_level(logging.WARNING):
        text = prior.encode_text([" ".join(words), " ".join(words[:75])])
    assert torch.equal(text.tensors["states"][0], text.tensors["states"][1])
    (note,) = prior.truncation_notes
    assert 'cut at word 76, "mushroom"' in note
    assert '"mushroom photo"' in note
    assert "77" in note
    assert note in caplog.text
    prior.encode_text(["a red chair"])
    assert len(prior.truncation_notes) == 1


def test_the_camera_is_told_and_none_is_zeros(models: dict[str, Path]) -> None:
    prior = load_prior(options(models["camera-pixel"]))
    assert prior.takes_camera
    assert prior.space == "pixel"
    assert not load_prior(options(models["sd15"])).takes_camera
    text = prior.encode_text([PROMPT]).select([0, 0])
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    t = torch.tensor([300, 300])
    alpha, sigma = prior.schedule.at(t)
    cameras = orbit(4)[torch.tensor([0, 1])]
    with torch.no_grad():
        for camera, labels in ((cameras, camera_features(cameras)), (None, torch.zeros(2, 12))):
            v = prior.denoiser(x, t, text.tensors["states"], class_labels=labels).sample
            torch.testing.assert_close(
                prior.predict_noise(x, t, Condition(text, camera)), sigma * x + alpha * v
            )
    told = prior.predict_noise(x, t, Condition(text, cameras))
    assert float((told[0] - told[1]).abs().max()) > 1e-4


def test_camera_features_are_harmonics() -> None:
    azimuth, elevation = torch.tensor([0.3, -2.0]), torch.tensor([0.1, 1.2])
    one = torch.ones(2)
    features = camera_features(Cameras(azimuth, elevation, one, one))
    assert features.shape == (2, 12)
    for k in (1, 2, 3):
        torch.testing.assert_close(features[:, k - 1], torch.sin(k * azimuth))
        torch.testing.assert_close(features[:, k + 2], torch.cos(k * azimuth))
        torch.testing.assert_close(features[:, k + 5], torch.sin(k * elevation))
        torch.testing.assert_close(features[:, k + 8], torch.cos(k * elevation))


def save_lora(folder: Path, out: Path, seed: int) -> Path:
    """A random LoRA of the U-Net's attention in diffusers' own format."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    torch.manual_seed(seed)
    targets = ["to_q", "to_v"]
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    layers = get_peft_model_state_dict(pipeline.unet)
    StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=layers)
    return out


def test_loras_merge_with_their_weights(models: dict[str, Path], tmp_path: Path) -> None:
    loras = [save_lora(models["sd15"], tmp_path / name, seed) for seed, name in enumerate("ab")]
    pipeline = own_pipeline(models["sd15"])
    for lora, name in zip(loras, "ab", strict=True):
        pipeline.load_lora_weights(
            str(lora), weight_name="pytorch_lora_weights.safetensors", adapter_name=name
        )
    pipeline.set_adapters(["a", "b"], [0.7, -0.4])
    (step, *_) = record(
        pipeline, num_inference_steps=1, guidance_scale=GUIDANCE, output_type="latent"
    )
    second = loras[1] / "pytorch_lora_weights.safetensors"
    chosen = [f"{loras[0]}:0.7", f"{second}:-0.4"]
    merged = load_prior(options(models["sd15"], loras=chosen))
    plain = load_prior(options(models["sd15"]))
    torch.testing.assert_close(
        guided(merged, step.x, int(step.t)), step.guided, rtol=1e-4, atol=1e-5
    )
    assert float((guided(plain, step.x, int(step.t)) - step.guided).abs().max()) > 1e-3


def test_learned_words_are_read(models: dict[str, Path], tmp_path: Path) -> None:
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(5))
    save_file({"<toy>": vector}, tmp_path / "learned_embeds.safetensors")
    prior = load_prior(options(models["sd15"], textual_inversions=(str(tmp_path),)))
    tokenizer, encoder = prior.pipeline.tokenizer, prior.pipeline.text_encoder
    token = tokenizer.convert_tokens_to_ids(prior.words["<toy>"])
    torch.testing.assert_close(encoder.get_input_embeddings().weight[token], vector[0])
    assert token in tokenizer(f"a {prior.words['<toy>']}").input_ids

    both = {"clip_l": vector, "clip_g": 2 * vector}
    save_file(both, tmp_path / "statue.safetensors")
    xl = load_prior(
        options(models["sdxl"], textual_inversions=(str(tmp_path / "statue.safetensors"),))
    )
    for number, (tokenizer, encoder) in enumerate(
        [
            (xl.pipeline.tokenizer, xl.pipeline.text_encoder),
            (xl.pipeline.tokenizer_2, xl.pipeline.text_encoder_2),
        ]
    ):
        token = tokenizer.convert_tokens_to_ids(xl.words["statue"])
        weight = encoder.get_input_embeddings().weight[token]
        torch.testing.assert_close(weight, (1 + number) * vector[0])


def test_sd3_runs_without_its_t5(models: dict[str, Path]) -> None:
    prior = load_prior(options(models["sd3"], drop_t5=True))
    assert prior.pipeline.text_encoder_3 is None
    text = prior.encode_text([PROMPT])
    assert float(text.tensors["states"][:, 77:].abs().max()) == 0.0
    prior.predict_noise(torch.randn(1, *prior.latent_shape), torch.tensor([400]), Condition(text))
    with pytest.raises(UserError, match="only SD 3"):
        load_prior(options(models["flux"], drop_t5=True))


def test_a_cached_hub_model_loads_by_id_and_tells_its_commit(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--someone--tiny"
    shutil.copytree(models["sd15"], cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    prior = load_prior(PriorConfig(name="someone/tiny", resolution=RESOLUTION))
    assert (prior.source, prior.revision, prior.family) == ("someone/tiny", commit, "sd")
    assert load_prior(options(models["sd15"])).revision is None
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        load_prior(PriorConfig(name="someone/tiny", revision="v2"))

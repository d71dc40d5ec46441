"""MVDream (Shi 2023): Stable Diffusion 2.1 that denoises four views of one object together.

Rows come in runs of four: views of one elevation, evenly around the object, at one timestep. In
self-attention the four see each other; all else is done view by view. Each view's camera is told as
its camera-to-world matrix (world Z up, the camera looks along its -Z, as here) with the translation
divided by its length, row by row, 16 numbers into a small network beside the time's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..scene.cameras import Cameras
from .base import Condition
from .joint_views import see_each_other
from .latent_unet import StableDiffusionPrior
from .noise import to_noise
from .pretrained import LoadedPipeline

GROUP = 4
CAMERA = 16


class MVDreamPrior(StableDiffusionPrior):
    """MVDream as a prior: text and four cameras at once."""

    family = "mvdream"
    group = GROUP

    def __init__(self, loaded: LoadedPipeline) -> None:
        super().__init__(loaded)
        self.takes_camera = True
        see_each_other(self.denoiser, GROUP)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """`predict_noise` inside the autograd graph.

        Raises ValueError unless all cameras are told, in runs of four.
        """
        if condition.cameras is None or len(x_t) % GROUP:
            raise ValueError(
                f"condition: MVDream needs cameras in runs of {GROUP}, got "
                f"{'none' if condition.cameras is None else len(x_t)}"
            )
        output = self.denoiser(
            x_t.to(self.dtype),
            t,
            encoder_hidden_states=condition.text.tensors["states"],
            class_labels=camera_matrices(condition.cameras).to(x_t.device, self.dtype),
            return_dict=False,
        )[0]
        return to_noise(self.prediction, output.float(), x_t, *self.schedule.at(t))


def camera_matrices(cameras: Cameras) -> Tensor:
    """Camera-to-world matrices `[B, 16]`, row by row, their translation of length 1."""
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] /= c2w[:, :3, 3].norm(dim=-1, keepdim=True)
    return c2w.flatten(1)


def unet_config(own: Mapping[str, Any]) -> dict[str, Any]:
    """The stock U-Net's configuration for that of MVDream's own class.

    Raises UserError for what the stock class can't hold, such as ImageDream's image tokens.
    """
    if own.get("ip_dim"):
        raise UserError(
            "ImageDream reads a picture by layers that are not supported; take MVDream with the "
            "picture's own view beside it, or Zero-1-to-3"
        )
    try:
        widths = [own["model_channels"] * factor for factor in own["channel_mult"]]
        attends = [2**level in own["attention_resolutions"] for level in range(len(widths))]
        return {
            "sample_size": own["image_size"],
            "in_channels": own["in_channels"],
            "out_channels": own["out_channels"],
            "block_out_channels": widths,
            "layers_per_block": own["num_res_blocks"],
            # diffusers calls the number of heads by this name
            "attention_head_dim": [width // own["num_head_channels"] for width in widths],
            "cross_attention_dim": own["context_dim"],
            "transformer_layers_per_block": own.get("transformer_depth", 1),
            "use_linear_projection": True,
            "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
            "up_block_types": [
                "CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)
            ],
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": own["camera_dim"],
        }
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the U-Net's configuration has no {error}; it is not MVDream's, or damaged"
        ) from None


def stock_weights(own: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The stock U-Net's weights of MVDream's, whose keys are the original repository's.

    The camera's network lies where diffusers has the class embedding.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    renamed = {
        "model.diffusion_model." + key.replace("camera_embed.", "label_emb.0."): value
        for key, value in own.items()
    }
    return convert_ldm_unet_checkpoint(renamed, dict(config))

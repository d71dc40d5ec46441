"""One fine step at full size: an SD 1.5-size U-Net and VAE at 512 px, one view, on this machine.

    python benchmarks/full_size.py [--variant recompute keep] [--dtype float32] [--device cpu]

The weights are random, so nothing is downloaded and nothing of use comes out; size, path and cost
are the real ones: the mesh is rendered, encoded by the VAE, judged under guidance (two rows of the
U-Net), and the gradient goes back through the VAE's encoder to the mesh. `recompute` is the option
`checkpoint_vae`, `keep` keeps the encoder's activations. Each variant runs in a process of its own,
whose peak of memory is the system's own count. Writes its section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import psutil
import torch
from results import table, write_section
from torch import Tensor

from maquette.common.config.models import CoarseConfig, FineConfig
from maquette.common.config.priors import PriorConfig
from maquette.common.config.prompts import PromptConfig
from maquette.common.fields.field import HashField
from maquette.common.guidance.conditions import TextConditioner
from maquette.common.guidance.judges import Views
from maquette.common.guidance.prompts import ViewPrompts
from maquette.common.guidance.prompts_cache import KnownTexts
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.losses import SDS
from maquette.common.priors.base import TextEmbedding
from maquette.common.priors.latent_unet import StableDiffusionPrior
from maquette.common.priors.pretrained import LoadedPipeline
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.scene.views import studio_lights
from maquette.fine.first_shape import FirstShape
from maquette.fine.model import FineModel, lattice, render_surface

GIB = 2**30
VARIANTS = ("recompute", "keep")
RESOLUTION = 512
Result = TypeVar("Result")


def main() -> None:
    """Measure every variant in a child process, write the table."""
    parser = argparse.ArgumentParser(description="One fine step at full size.")
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.variant[0], options.dtype, options.device)))
        return
    rows = []
    for variant in options.variant:
        program = [sys.executable, __file__, "--child", "--variant", variant]
        program += ["--dtype", options.dtype, "--device", options.device]
        found = subprocess.run(program, check=True, capture_output=True, text=True)
        values = json.loads(found.stdout.splitlines()[-1])
        rows.append([variant, *(f"{values[key]:.1f}" for key in COLUMNS)])
        print(rows[-1], flush=True)
    body = (
        f"One fine step, one view at {RESOLUTION} px, {options.dtype} on {options.device}, random "
        "weights of Stable Diffusion 1.5's size (860 million parameters in the U-Net, 84 in the "
        "VAE). The models' GiB hold Python and its libraries as well; what is held for the "
        "backward pass is the render's and the VAE encoder's. Wall-clock seconds grow where others "
        "share the cores; processor time does not.\n\n"
    )
    write_section("full_size.py", body + table(["VAE activations", *COLUMNS.values()], rows))


COLUMNS = {
    "render": "render, s",
    "encode": "VAE encoder, s",
    "judge": "U-Net, two rows, s",
    "backward": "backward and Adam, s",
    "step": "step, s",
    "processor": "processor time, s",
    "models": "models, GiB",
    "held": "held for the backward pass, GiB",
    "peak": "peak, GiB",
}


def measure(variant: str, dtype_name: str, device_name: str) -> dict[str, float]:
    """Seconds of each part of one step, and GiB."""
    device, dtype = torch.device(device_name), getattr(torch, dtype_name)
    torch.manual_seed(0)
    model = sphere(device)
    prior = stable_diffusion(device, dtype, recompute=variant == "recompute")
    conditioner = TextConditioner(texts(device, dtype))
    judge = ScoreDistillation(prior, conditioner, SDS(t_max=0.5), steps=1)
    config = FineConfig()
    learner, cameras = model.learner(config), orbit(1).to(device)
    seconds: dict[str, float] = {}
    models, began = peak_gib(device), time.process_time()

    views = timed(seconds, "render", device, lambda: render(model, cameras))
    before = held_gib(device)
    prior.encode_image = watched(seconds, "encode", device, prior.encode_image)
    prior.predict_noise = watched(seconds, "judge", device, prior.predict_noise)
    judged = judge(views, 0)
    held = held_gib(device) - before
    timed(seconds, "backward", device, lambda: learner.descend(judged.loss, 0, 1))
    assert model.sdf.value.grad is not None
    assert bool(torch.isfinite(model.sdf.value.grad).all())
    assert float(model.sdf.value.grad.abs().max()) > 0
    memory = {"models": models, "held": held, "peak": peak_gib(device)}
    step, processor = sum(seconds.values()), time.process_time() - began
    return seconds | memory | {"step": step, "processor": processor}


def sphere(device: torch.device) -> FineModel:
    """A sphere on the default lattice, with a random texture of the default size."""
    config = FineConfig()
    grid = lattice(config)
    distance = (grid.vertices().norm(dim=-1) - 0.6) / grid.cell_size
    field = CoarseConfig().field
    color = HashField(field.grid, field.hidden, outputs=3)
    return FineModel.begin(FirstShape(distance, color, torch.full((3,), 0.5)), config, device)


def render(model: FineModel, cameras: Cameras) -> Views:
    """One lit view."""
    lights = studio_lights(cameras, FineConfig().light)
    background = torch.full((3,), 0.5, device=cameras.azimuth.device)
    surface = model.surface()
    return render_surface(surface, model.texture, cameras, lights, RESOLUTION, background)


def stable_diffusion(
    device: torch.device, dtype: torch.dtype, recompute: bool
) -> StableDiffusionPrior:
    """The adapter around a U-Net and a VAE of Stable Diffusion 1.5's configuration."""
    diffusers: Any = importlib.import_module("diffusers")
    unet = diffusers.UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8
    )
    widths = (128, 256, 512, 512)
    vae = diffusers.AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=0.18215,
    )
    if recompute:
        vae.enable_gradient_checkpointing()
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    for module, kind in ((unet, dtype), (vae, torch.float32 if dtype == torch.float16 else dtype)):
        module.to(device, kind).requires_grad_(False).eval()
    parts = SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler)
    options = PriorConfig(name="random weights", checkpoint_vae=recompute)
    return StableDiffusionPrior(LoadedPipeline(parts, "", None, options, device, dtype))


def texts(device: torch.device, dtype: torch.dtype) -> ViewPrompts:
    """Random embeddings of CLIP's shape in place of a prompt's."""
    views = PromptConfig(view_dependent=False)
    rows = torch.randn(2, 77, 768).to(device, dtype)
    known = KnownTexts(TextEmbedding(("a sphere", ""), {"states": rows}))
    return ViewPrompts.encode(known, "a sphere", views)


def timed(
    seconds: dict[str, float], name: str, device: torch.device, work: Callable[[], Result]
) -> Result:
    """What `work` returns; its wall-clock seconds under `name`."""
    began = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
    return result


def watched(
    seconds: dict[str, float], name: str, device: torch.device, method: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """The same method, timed."""
    return lambda *args, **kwargs: timed(seconds, name, device, lambda: method(*args, **kwargs))


def held_gib(device: torch.device) -> float:
    """The memory in use now: of the process, or of a CUDA device's allocations."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / GIB
    return psutil.Process().memory_info().rss / GIB


def peak_gib(device: torch.device) -> float:
    """The most memory so far: of the process, or of a CUDA device's allocations."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


if __name__ == "__main__":
    main()

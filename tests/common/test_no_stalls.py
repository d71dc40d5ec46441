"""A step makes every tensor on the run's device and never waits for that device.

On the CPU the device is played (`tests/reference/played_device.py`); tests marked `gpu` let CUDA
itself raise at every wait.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maquette.coarse import ray_marching
from maquette.coarse.nerf import Nerf
from maquette.common import backends
from maquette.common import device as device_module
from maquette.common.config.models import RunConfig
from maquette.common.config.priors import PriorConfig
from maquette.common.config.reading import build_config
from maquette.common.fields.field import HashField
from maquette.common.guidance.conditions import TextConditioner
from maquette.common.guidance.judges import Views
from maquette.common.guidance.prompts import ViewPrompts
from maquette.common.guidance.prompts_cache import KnownTexts
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.losses import ISM, SDI, SDS, Distillation
from maquette.common.priors.base import TextEmbedding
from maquette.common.priors.loading import load_prior
from maquette.common.priors.pretrained import PretrainedPrior
from maquette.common.rasterize import visibility
from maquette.common.runs.loop import FINE, Learner, NotFiniteError
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.scene.shading import LAMBERTIAN, Lights, headlights
from maquette.common.scene.views import sample_views
from maquette.fine.first_shape import FirstShape
from maquette.fine.model import FineModel, lattice, render_surface
from maquette.fine.train import regularizers
from tests.conftest import SMALL_RUN
from tests.reference.played_device import DEVICE, Played, Playing
from tests.reference.tiny_models import RESOLUTION, build

VIEWS = 2


def settings() -> RunConfig:
    """A small run in which every part of a step has work to do."""
    changes = {
        "coarse.light.albedo_steps": 0,
        "coarse.background.kind": "random",
        "coarse.losses.orientation": 1.0,
        "fine.losses.laplacian": 1.0,
        "fine.losses.sdf_sign": 1.0,
    }
    pairs = [f"{key}={value}" for key, value in (SMALL_RUN | changes).items()]
    return build_config("a red mushroom", None, pairs)


@pytest.fixture
def playing() -> Iterator[Playing]:
    device_module._constant.cache_clear()
    with Playing() as played:
        yield played
    device_module._constant.cache_clear()


def coarse_step(config: RunConfig, device: torch.device) -> Callable[[int], tuple[Tensor, Learner]]:
    """A function that takes a coarse step without a prior."""
    part = config.coarse
    scene = Nerf(part, device)
    learner = scene.learner()

    def step(index: int) -> tuple[Tensor, Learner]:
        scene.prepare(index)
        cameras, lights = sample_views(part.camera, part.light, VIEWS, index, device)
        with learner.step(device):
            views, own = scene.render(cameras, lights, index)
            loss = views.image.square().mean() + own
            learner.descend(loss, index, 10)
        return loss, learner

    return step


def fine_step(config: RunConfig, device: torch.device) -> Callable[[int], tuple[Tensor, Learner]]:
    """A function that takes a fine step without a prior."""
    part = config.fine
    grid = lattice(part)
    distance = (grid.vertices().norm(dim=-1) - 0.6) / grid.cell_size
    color = HashField(config.coarse.field.grid, config.coarse.field.hidden, outputs=3)
    model = FineModel.begin(FirstShape(distance, color, torch.full((3,), 0.5)), part, device)
    learner, background = model.learner(part), torch.full((3,), 0.5).to(device)

    def step(index: int) -> tuple[Tensor, Learner]:
        cameras, lights = sample_views(part.camera, part.light, VIEWS, index, device)
        size = part.resolution if device.type == "cuda" else 64
        with learner.step(device):
            surface = model.surface()
            views = render_surface(surface, model.texture, cameras, lights, size, background, True)
            loss = views.image.square().mean() + views.opacity.mean()
            learner.descend(loss + regularizers(surface, model, part, index), index, 10)
        return loss, learner

    return step


def play_kernels(playing: Playing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what Triton does on a GPU wait for nothing, though plain torch does it here."""
    places = ((ray_marching, "march_torch"), (visibility, "nearest_torch"))
    blending = importlib.import_module("maquette.common.rasterize.antialias")
    for module, name in (*places, (blending, "silhouettes_torch")):
        monkeypatch.setattr(module, name, playing.kernel(getattr(module, name)))


def dual_step(config: RunConfig, device: torch.device) -> Callable[[int], tuple[Tensor, Learner]]:
    """The same of a dual surface."""
    fine = config.fine.model_copy(update={"isosurface": "flexicubes"})
    return fine_step(config.model_copy(update={"fine": fine}), device)


def test_a_dual_surface_waits_for_its_sizes_alone(
    playing: Playing, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_kernels(playing, monkeypatch)
    step = dual_step(settings(), DEVICE)
    for index in range(2):
        playing.waits.clear()
        playing.sizes.clear()
        _, learner = step(index)
        assert playing.waits == []
        assert 0 < len(playing.sizes) < 12
    learner.check()


@pytest.mark.parametrize("make", [coarse_step, fine_step])
def test_a_step_waits_for_nothing(
    playing: Playing, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_kernels(playing, monkeypatch)
    step = make(settings(), DEVICE)
    for index in range(2):
        playing.waits.clear()
        playing.sizes.clear()
        loss, learner = step(index)
        assert playing.waits == []
        if index == 0:  # the first step asks how much room is needed
            assert 0 < len(playing.sizes) < 12
        else:
            assert playing.sizes == []
        assert isinstance(loss, Played)
    learner.check()
    for module in learner.modules.values():
        assert all(isinstance(p.grad, Played) for p in module.parameters() if p.grad is not None)
    assert float(loss.detach()) > 0.0


def test_the_played_device_does_not_mix_with_the_cpu(playing: Playing) -> None:
    there = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(3)
    assert playing.waits == []
    assert float(there.sum()) == 3.0
    there[torch.tensor([0, 1])]
    there.cpu()
    torch.ones(3).to(DEVICE)
    torch.ones(3).to(DEVICE, non_blocking=True)
    assert [wait.split(".")[1] for wait in playing.waits] == [
        *("_local_scalar_dense", "index", "_to_copy", "_to_copy"),
    ]


@pytest.mark.parametrize(
    ("family", "loss"),
    [("if", SDS()), ("sd15", SDS()), ("sdxl", SDS()), ("sd15", ISM()), ("sd15", SDI(steps=2))],
)
def test_a_priors_opinion_waits_for_nothing(
    family: str, loss: Distillation, tmp_path: Path
) -> None:
    judge = tiny_judge(family, tmp_path, DEVICE, loss)
    device_module._constant.cache_clear()
    with Playing() as played:
        send_texts(judge, DEVICE)
        image = torch.rand(VIEWS, 32, 32, 3).to(DEVICE).requires_grad_(True)
        cameras = orbit(VIEWS).to(DEVICE)
        views = Views(image, cameras, torch.zeros(3, device=DEVICE), lambda: image[..., 0])
        judge(views, 0)  # moves the networks
        played.waits.clear()
        judged = judge(views, 1)
        judged.loss.backward()
        assert played.waits == []
        assert played.sizes == []
        assert isinstance(judged.watch["gradient"], Tensor)
        assert isinstance(image.grad, Played)
        assert float(image.grad.abs().max()) > 0.0
    device_module._constant.cache_clear()


def tiny_judge(
    family: Any, folder: Path, device: torch.device, loss: Distillation | None = None
) -> ScoreDistillation:
    """A small random diffusion model with guidance, its texts still on the CPU."""
    resolution = 32 if family == "if" else RESOLUTION
    name = str(build(family, folder / family))
    prior = load_prior(PriorConfig(name=name, resolution=resolution), "cpu")
    config = settings().coarse.text
    texts = ["a red mushroom", *(f"a red mushroom, {v} view" for v in ("front", "side", "back"))]
    texts += ["a red mushroom, overhead view", ""]
    known = KnownTexts(prior.encode_text(texts))
    prompts = ViewPrompts.encode(known, "a red mushroom", config)
    prior.device = device
    if device.type != "cuda":
        prior.computing = nullcontext  # autocast knows no such device
    loss = (loss or SDS()).model_copy(update={"guidance_scale": 7.5})
    return ScoreDistillation(prior, TextConditioner(prompts), loss, steps=4)


def send_texts(judge: ScoreDistillation, device: torch.device) -> None:
    """Bring the texts to the device, as a stage does before its first step."""
    prompts = judge.conditioner.prompts
    for part in (prompts.views, prompts.unconditional):
        for key, value in part.tensors.items():
            part.tensors[key] = value.to(device)


def test_cameras_and_lights_remember_what_the_cpu_knew(playing: Playing) -> None:
    cameras = orbit(3)
    lights = headlights(cameras.position, 0.5)
    assert cameras.to(DEVICE).at_home is cameras
    assert cameras.to(DEVICE).to(DEVICE).at_home is cameras
    assert cameras.at_home is cameras
    for mode, shaded in ((lights.mode * 0, False), (lights.mode, True)):
        moved = Lights(lights.position, lights.ambient, mode).to(DEVICE)
        playing.waits.clear()
        assert moved.need_normals() == shaded
        assert playing.waits == []
    part = Cameras.cat([cameras.to(DEVICE), cameras.to(DEVICE)])
    assert torch.equal(part.at_home.azimuth, torch.cat([cameras.azimuth] * 2))
    assert int(lights.mode[0]) == LAMBERTIAN


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_of_a_device_that_is_not_finite_is_told_afterwards(
    playing: Playing, what: str
) -> None:
    layer = torch.nn.Linear(2, 1, bias=False).to(DEVICE)
    learner = Learner(settings().coarse.optimizer, {"layer": layer}, {})
    assert int(learner._failed) == FINE
    for index, bad in enumerate((False, True, False)):
        out = layer(torch.ones(1, 2, device=DEVICE)).sum()
        # The square root's slope at 0 is infinite, its value is not.
        wrong = out * float("nan") if what == "loss" else (out * 0.0).sqrt()
        learner.descend(wrong if bad else out, index, 10)
    with pytest.raises(NotFiniteError, match=what) as caught:
        learner.check()
    assert caught.value.step == 1


@contextmanager
def no_waiting() -> Iterator[None]:
    """Let CUDA raise wherever the host waits for it."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [coarse_step, fine_step])
def test_a_gpu_is_waited_for_nowhere_in_a_step(make: Any) -> None:
    full = build_config("a red mushroom", "magic3d-sd15", [])
    backends.use(full.backends)
    changed = full.model_copy(
        update={"coarse": full.coarse.model_copy(update={"occupancy": settings().coarse.occupancy})}
    )
    step = make(changed, torch.device("cuda"))
    for index in range(3):  # compiles its kernels
        step(index)
    with no_waiting():
        for index in range(3, 6):
            _, learner = step(index)
    learner.check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["if", "sd15", "sdxl"])
def test_a_gpu_is_waited_for_nowhere_in_a_priors_opinion(family: str, tmp_path: Path) -> None:
    device = torch.device("cuda")
    judge = tiny_judge(family, tmp_path, device)
    send_texts(judge, device)
    assert isinstance(judge.prior, PretrainedPrior)
    image = torch.rand(VIEWS, 32, 32, 3, device=device, requires_grad=True)
    cameras = orbit(VIEWS).to(device)
    views = Views(image, cameras, torch.zeros(3, device=device), lambda: image[..., 0])
    judge(views, 0).loss.backward()
    with no_waiting():
        judge(views, 1).loss.backward()


def test_texts_are_rows_of_the_device(playing: Playing) -> None:
    text = TextEmbedding(("a", "b"), {"states": torch.ones(2, 3).to(DEVICE)})
    playing.waits.clear()
    assert isinstance(text.select([1, 0, 1]).tensors["states"], Played)
    assert playing.waits == []

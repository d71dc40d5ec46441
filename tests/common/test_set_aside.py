"""Rows set aside in place of sizes asked for: the same pictures and gradients, and none too few.

On the CPU plain torch and Triton's interpreter stand for a GPU.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maquette.coarse.compositing import accumulate, render_weights
from maquette.common import backends, rooms
from maquette.common.config.backends import BackendsConfig
from maquette.common.config.models import RunConfig
from maquette.common.runs.loop import FINE, Learner
from maquette.common.scene.mesh import adjacent_faces
from tests.common.test_no_stalls import coarse_step, fine_step, settings
from tests.common.test_rasterize import sphere

CPU = torch.device("cpu")
PARTS = (
    *("hash_grid", "ray_marching", "compositing"),
    *("visibility", "interpolation", "antialiasing", "tetrahedra"),
)


def test_what_a_mask_picks_gets_rows_and_the_rest_stays_empty() -> None:
    mask = torch.tensor([False, True, True, False, True])
    aside = rooms.Rooms()
    assert rooms.places_of(mask, "a").tolist() == [1, 2, 4]
    with aside.held():
        found = rooms.places_of(mask, "a")
        assert found.tolist() == [1, 2, 4, 5, 5]  # never more rows than there are places
        assert not bool(aside.crowded)
        assert rooms.places_of(~mask & mask, "a").tolist() == [5] * 5
        with rooms.asking():
            assert rooms.places_of(mask, "a").tolist() == [1, 2, 4]
    assert rooms.now() is None


def test_a_crowded_step_is_told_and_the_next_ones_get_more_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "SPARE", 1)
    aside, few, many = rooms.Rooms(), torch.arange(100) < 2, torch.arange(100) >= 40
    with aside.held():
        assert len(rooms.places_of(few, "a")) == 4
        assert not bool(aside.crowded)
    with aside.held():
        assert rooms.places_of(many, "a").tolist() == [40, 41, 42, 43]
        assert bool(aside.crowded)
        aside.left_out(aside.crowded)
    assert aside.settle() == 1
    with aside.held():
        assert len(rooms.places_of(many, "a")) == 91
        assert not bool(aside.crowded)
    assert aside.settle() == 0
    with aside.held():
        rooms.places_of(few, "a")
    assert aside.settle() == 0
    with aside.held():
        assert len(rooms.places_of(few, "a")) == 4  # and less again


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_a_step_in_rows_is_the_step_that_asks(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = coarse_step if stage == "coarse" else fine_step
    names = dict.fromkeys(PARTS, "torch")
    found = []
    for held in (False, True):
        monkeypatch.setattr(backends, "sets_aside", lambda device, held=held: held)
        marching = {"ray_marching": "triton"} if held and in_triton() else {}
        backends.use(BackendsConfig.model_validate(names | marching))
        torch.manual_seed(0)
        loss, learner = make(small(), CPU)(0)
        assert (learner.rooms.crowded is not None) == held
        assert not held or not bool(learner.rooms.crowded)
        found.append((loss.detach(), slopes_of(learner)))
    agree(found[0], found[1], 1e-4)


Found = tuple[Tensor, dict[str, Tensor]]


def slopes_of(learner: Learner) -> dict[str, Tensor]:
    """The gradients of a step by name."""
    named = {f"{n}.{k}": p for n, m in learner.modules.items() for k, p in m.named_parameters()}
    return {name: p.grad for name, p in named.items() if p.grad is not None}


def agree(one: Found, two: Found, share: float) -> None:
    """Losses and gradients are the same, to a share of each one's largest value."""
    assert torch.allclose(one[0], two[0], rtol=0.1 * share)
    assert one[1].keys() == two[1].keys()
    assert len(one[1]) > 3
    for name, slope in one[1].items():
        limit = share * float(slope.abs().max())
        assert torch.allclose(slope, two[1][name], atol=limit, rtol=0.0), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [coarse_step, fine_step])
def test_a_step_on_a_gpu_in_rows_is_the_step_that_asks(make: Any) -> None:
    found = []
    for chosen in (BackendsConfig(sizes="asked"), BackendsConfig()):
        backends.use(chosen)
        torch.manual_seed(0)
        loss, learner = make(settings(), torch.device("cuda"))(0)
        found.append((loss.detach(), slopes_of(learner)))
    agree(found[0], found[1], 1e-2)  # sums in the order that the GPU chooses


def small() -> RunConfig:
    """A run of pictures that Triton's interpreter gets through."""
    config = settings()
    return config.model_copy(update={"coarse": config.coarse.model_copy(update={"resolution": 4})})


def in_triton() -> bool:
    """Whether Triton's interpreter is there to march in rows."""
    return backends.triton_obstacle(CPU) is None


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_rows_of_no_ray_weigh_nothing_and_hear_nothing(name: str) -> None:
    if name == "triton" and not in_triton():
        pytest.skip("Triton isn't installed")
    rays = torch.tensor([0, 0, 2])
    empty = torch.full((2,), 3)
    density, values = torch.rand(5) * 3.0, torch.rand(5, 2)
    starts = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    ends = torch.tensor([1.0, 2.0, 1.0, 0.0, 0.0])
    found = []
    for count, chosen in ((3, "torch"), (5, name)):
        backends.use(BackendsConfig.model_validate({"compositing": chosen}))
        own = torch.cat([rays, empty])[:count]
        leaves = [t[:count].clone().requires_grad_(True) for t in (density, values)]
        with rooms.Rooms().held():
            weights = render_weights(leaves[0], starts[:count], ends[:count], own, 3)
            total = accumulate(weights, leaves[1], own, 3)
            slopes = torch.autograd.grad(total.square().sum(), leaves)
        found.append([total.detach(), weights.detach(), *slopes])
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    for short, long in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.allclose(short, long[:3], atol=1e-6)
        assert float(long[3:].abs().max()) == 0.0


def test_pairs_of_faces_are_those_without_rows_and_faces_beside_themselves() -> None:
    _, faces = sphere(1)
    pairs = {tuple(pair) for pair in adjacent_faces(faces).tolist()}
    with rooms.Rooms().held():
        found = adjacent_faces(faces)
    assert found.shape[0] == 3 * faces.shape[0] - 1
    assert {tuple(pair) for pair in found.tolist() if pair[0] != pair[1]} == pairs


def test_the_optimizer_leaves_a_crowded_step_out(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    learner = Learner(settings().coarse.optimizer, {"layer": layer}, {})
    learner.optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    learner._first = [1e-2]
    learner._failed = torch.full((), FINE)  # as on a GPU
    monkeypatch.setattr(rooms, "SPARE", 0)
    monkeypatch.setattr(backends, "sets_aside", lambda device: True)
    before = layer.weight.detach().clone()
    for index, count in enumerate((2, 50)):
        with learner.step(CPU):
            rooms.places_of(torch.arange(100) < count, "a")
            loss = layer(torch.ones(1, 2)).sum()
            if count == 50:
                loss = loss * float("nan")  # what does not fit may do anything
            learner.descend(loss, index, 10)
        moved = layer.weight.detach().clone()
        assert torch.equal(moved, before) == (count == 50)
        before = moved
    learner.check()
    with learner.step(CPU):
        rooms.places_of(torch.arange(100) < 50, "a")
        learner.descend(layer(torch.ones(1, 2)).sum(), 2, 10)
    assert not torch.equal(layer.weight, before)

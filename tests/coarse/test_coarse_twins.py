"""Twins of ray marching and volume rendering: plain torch and Triton against the compiled loops.

Without a GPU the kernels run in Triton's interpreter.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maquette.coarse.compositing import accumulate, render_weights
from maquette.coarse.ray_marching import Samples, march
from maquette.common import backends
from maquette.common.config.backends import BackendsConfig
from tests.coarse.test_compositing import COUNTS, packed
from tests.coarse.test_ray_marching import BOX, LONG_BOX, as_tuples, random_rays

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TWINS = ["torch", "triton"]


def choose(name: str) -> None:
    """Let one twin do the work, or skip where it can't run."""
    if name == "triton":
        pytest.importorskip("triton")
    backends.use(BackendsConfig(ray_marching=name, compositing=name))


def marched(*arguments, **options) -> Samples:
    """`march` on the device."""
    placed = [a.to(DEVICE) if isinstance(a, Tensor) else a for a in arguments]
    named = {k: a.to(DEVICE) if isinstance(a, Tensor) else a for k, a in options.items()}
    return march(*placed, **named)


def agree(ours: Samples, theirs: Samples, step: float) -> None:
    """The same stretches, but for one in a thousand whose midpoint lies on a cell's face."""

    def keys(samples: Samples) -> dict[tuple[int, int], float]:
        return {
            (ray, round(float(t) / step * 4)): t for ray, t, _ in as_tuples(samples)
        }  # quarters of a step tell stretches apart, and no two of a ray share one

    one, two = keys(ours), keys(theirs)
    off = {  # where rounding moved a stretch over a quarter's edge, its neighbour is there
        key for key in one.keys() ^ two.keys() if not _near(key, one) or not _near(key, two)
    }
    assert len(off) <= 1 + len(one) // 1000
    assert len(ours) == pytest.approx(len(theirs), abs=1 + len(one) // 1000)


def _near(key: tuple[int, int], found: dict[tuple[int, int], float]) -> bool:
    return any((key[0], key[1] + shift) in found for shift in (-1, 0, 1))


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(("share", "box"), [(0.1, BOX), (0.5, LONG_BOX), (1.0, BOX)])
def test_rays_are_marched_as_on_the_cpu(name: str, share: float, box: Tensor) -> None:
    origins, directions = random_rays(60, seed=round(10 * share))
    generator = torch.Generator().manual_seed(1)
    binaries = torch.rand(7, 5, 9, generator=generator) < share
    jitter = torch.rand(60, generator=generator)
    ours = march(origins, directions, binaries, box, 0.0731, 0.33, 4.2, jitter)
    choose(name)
    theirs = marched(origins, directions, binaries, box, 0.0731, 0.33, 4.2, jitter=jitter)
    agree(ours, theirs, 0.0731)
    same = theirs.ray_indices[1:] == theirs.ray_indices[:-1]
    assert torch.all(theirs.ray_indices[1:] >= theirs.ray_indices[:-1])
    assert torch.all(theirs.t_starts[1:][same] >= theirs.t_ends[:-1][same] - 1e-5)
    assert theirs.ray_indices.dtype == torch.int64
    assert theirs.t_starts.dtype == torch.float32


@pytest.mark.parametrize("name", TWINS)
def test_a_full_grid_is_filled_from_face_to_face(name: str) -> None:
    choose(name)
    origins, directions = torch.tensor([[-3.0, 0.1, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    samples = marched(origins, directions, torch.ones(4, 4, 4, dtype=torch.bool), BOX, 0.25)
    assert samples.t_starts.tolist() == [2.0 + 0.25 * k for k in range(8)]
    assert samples.t_ends.tolist() == [2.25 + 0.25 * k for k in range(8)]


@pytest.mark.parametrize("name", TWINS)
def test_rays_that_meet_nothing_give_no_samples(name: str) -> None:
    choose(name)
    origins, directions = random_rays(8, seed=2)
    empty, full = torch.zeros(4, 4, 4, dtype=torch.bool), torch.ones(4, 4, 4, dtype=torch.bool)
    beside = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 1.5, -3.0]])
    away = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    cases = [
        (origins, directions, empty),
        (origins[:0], directions[:0], full),
        (beside, away, full),
    ]
    for o, d, cells in cases:
        samples = marched(o, d, cells, BOX, 0.1)
        assert len(samples) == samples.t_starts.shape[0] == 0
        assert samples.ray_indices.dtype == torch.int64
    assert len(marched(origins, directions, full, BOX, 0.1, far=0.0)) == 0


def weighed(
    device: torch.device, density: Tensor, starts: Tensor, ends: Tensor, rays: Tensor, count: int
):
    """Weights and their gradient under a fixed cotangent."""
    cotangent = torch.randn(density.shape, generator=torch.Generator().manual_seed(1)).to(device)
    leaf = density.to(device).requires_grad_(True)
    found = render_weights(leaf, starts.to(device), ends.to(device), rays.to(device), count)
    (slope,) = torch.autograd.grad(found, leaf, cotangent)
    return found.detach().cpu(), slope.cpu()


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 100.0])
def test_weights_have_the_cpus_values_and_gradients(name: str, scale: float) -> None:
    counts = [*COUNTS, 150]  # more than the kernel's block
    density, starts, ends, rays = packed(counts)
    arguments = (density * scale, starts, ends, rays, len(counts))
    expected = weighed(torch.device("cpu"), *arguments)
    choose(name)
    for got, wanted in zip(weighed(DEVICE, *arguments), expected, strict=True):
        limit = 1e-5 * float(wanted.abs().max())
        assert torch.allclose(got, wanted, atol=limit, rtol=1e-4)
        assert limit > 0.0


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("channels", [1, 5])
def test_sums_have_the_cpus_values_and_gradients(name: str, channels: int) -> None:
    counts = [*COUNTS, 150]
    generator = torch.Generator().manual_seed(0)
    _, _, _, rays = packed(counts)
    weights = torch.randn(rays.shape[0], generator=generator)
    values = torch.randn(rays.shape[0], channels, generator=generator)
    cotangent = torch.randn(len(counts), channels, generator=generator)

    def asked(device: torch.device) -> list[Tensor]:
        w, v = (x.to(device).requires_grad_(True) for x in (weights, values))
        total = accumulate(w, v, rays.to(device), len(counts))
        slopes = torch.autograd.grad(total, (w, v), cotangent.to(device))
        return [t.detach().cpu() for t in (total, *slopes)]

    expected = asked(torch.device("cpu"))
    choose(name)
    for got, wanted in zip(asked(DEVICE), expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("name", TWINS)
def test_no_samples_leave_every_ray_empty(name: str) -> None:
    choose(name)
    nothing = torch.zeros(0, device=DEVICE, requires_grad=True)
    rays = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    weights = render_weights(nothing, nothing.detach(), nothing.detach(), rays, 3)
    total = accumulate(weights, torch.zeros(0, 3, device=DEVICE), rays, 3)
    assert torch.equal(total.detach().cpu(), torch.zeros(3, 3))
    (slope,) = torch.autograd.grad(total.sum(), nothing)
    assert slope.shape == (0,)


@pytest.mark.parametrize("name", TWINS)
def test_an_opaque_sample_hides_what_lies_behind(name: str) -> None:
    choose(name)
    rays = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    density = torch.tensor([1e4, 1e4, 1.0], device=DEVICE)
    edges = torch.tensor([0.0, 1.0, 2.0, 3.0], device=DEVICE)
    weights = render_weights(density, edges[:-1], edges[1:], rays, 1)
    assert weights.tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)

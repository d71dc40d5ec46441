"""Ray marching against the plainest statement of its rule, and its closed forms."""

from __future__ import annotations

import numba
import pytest
import torch
from torch.nn import functional as F

from maquette.coarse.ray_marching import Samples, march
from tests.reference.marching_loop import march_loop

BOX = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
LONG_BOX = torch.tensor([-0.7, -0.2, -1.3, 0.4, 0.9, 0.5])


def random_rays(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from inside and outside, towards the box and past it, a third parallel to an axis."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(count, 3, generator=generator) * 0.3
    origins[::2] = 2.5 * F.normalize(torch.randn(count, 3, generator=generator), dim=-1)[::2]
    directions = -origins + 0.7 * torch.randn(count, 3, generator=generator)
    axes = torch.eye(3)[torch.randint(3, (count,), generator=generator)]
    signs = torch.randint(2, (count, 1), generator=generator) * 2.0 - 1.0
    directions[::3] = (axes * signs)[::3]
    origins[::3] *= 0.4  # or most of them would miss the box
    origins[::6] -= 2.0 * directions[::6]
    directions[1::9, 0] = 0.0  # in a plane
    return origins, F.normalize(directions, dim=-1)


def as_tuples(samples: Samples) -> list[tuple[int, float, float]]:
    return list(
        zip(
            samples.ray_indices.tolist(),
            samples.t_starts.tolist(),
            samples.t_ends.tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("box", [BOX, LONG_BOX])
@pytest.mark.parametrize(("near", "far", "step"), [(0.0, 1e10, 0.0731), (0.33, 2.2, 0.217)])
def test_marching_keeps_exactly_the_stretches_of_its_rule(share, box, near, far, step):
    origins, directions = random_rays(72, seed=round(10 * share))
    generator = torch.Generator().manual_seed(1)
    binaries = torch.rand(7, 5, 9, generator=generator) < share
    jitter = torch.rand(72, generator=generator)
    got = as_tuples(march(origins, directions, binaries, box, step, near, far, jitter))
    planes = torch.full((72,), near) + jitter * step
    tried = march_loop(origins, directions, binaries, box, step, planes, far)
    # Where a midpoint falls on a face, float32 may take either side: at most one in a thousand.
    open_ = {one[:3] for one in tried if one[3] < 1e-5}
    kept = [one[:3] for one in tried if one[4]]
    assert len(open_) <= 1 + len(tried) // 1000
    assert [one for one in got if one not in open_] == [one for one in kept if one not in open_]
    assert bool(kept) == (share > 0)


def test_a_full_grid_is_filled_from_face_to_face():
    origins = torch.tensor([[-3.0, 0.1, 0.2]])
    directions = torch.tensor([[1.0, 0.0, 0.0]])
    samples = march(origins, directions, torch.ones(4, 4, 4, dtype=torch.bool), BOX, 0.25)
    # Midpoints lie at 0.125 + 0.25 k: those within [2, 4) belong to the box.
    assert samples.t_starts.tolist() == [2.0 + 0.25 * k for k in range(8)]
    assert torch.equal(samples.t_ends, samples.t_starts + 0.25)
    assert samples.midpoints[0] == 2.125
    assert len(samples) == 8


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_occupied_cell_is_met_where_it_lies(axis, sign):
    binaries = torch.zeros(8, 8, 8, dtype=torch.bool)
    binaries[6, 3, 1] = True
    centre = torch.tensor([0.625, -0.125, -0.625])
    direction = torch.zeros(1, 3)
    direction[0, axis] = sign
    origin = centre[None] - 3.0 * direction
    samples = march(origin, direction, binaries, BOX, 0.01)
    assert torch.all((samples.midpoints - 3.0).abs() < 0.125 + 1e-5)
    assert 24 <= len(samples) <= 26
    past = march(origin + 0.3 * direction.roll(1, dims=1), direction, binaries, BOX, 0.01)
    assert len(past) == 0


def test_jitter_moves_each_rays_near_plane():
    origins, directions = torch.zeros(3, 3), torch.eye(3)
    full = torch.ones(2, 2, 2, dtype=torch.bool)
    jitter = torch.tensor([0.0, 0.5, 0.75])
    samples = march(origins, directions, full, BOX, 0.2, near=0.1, jitter=jitter)
    first = [float(samples.t_starts[samples.ray_indices == ray][0]) for ray in range(3)]
    assert first == pytest.approx([0.1, 0.2, 0.25])


def test_samples_are_packed_in_order():
    origins, directions = random_rays(300, seed=4)
    binaries = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    samples = march(origins, directions, binaries, BOX, 0.05)
    same = samples.ray_indices[1:] == samples.ray_indices[:-1]
    assert torch.all(samples.ray_indices[1:] >= samples.ray_indices[:-1])
    assert torch.all(samples.t_starts[1:][same] >= samples.t_ends[:-1][same])
    assert samples.ray_indices.dtype == torch.int64
    assert len(samples) > 1000


def test_rays_that_meet_nothing_give_no_samples():
    origins, directions = random_rays(50, seed=2)
    empty, full = torch.zeros(4, 4, 4, dtype=torch.bool), torch.ones(4, 4, 4, dtype=torch.bool)
    behind = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    for o, d, cells in [
        (origins, directions, empty),
        (origins[:0], directions[:0], full),
        (*behind, full),
    ]:
        samples = march(o, d, cells, BOX, 0.1)
        assert len(samples) == 0
        assert samples.ray_indices.dtype == torch.int64
    assert len(march(origins, directions, full, BOX, 0.1, far=0.0)) == 0


def test_the_samples_repeat_whatever_the_number_of_threads():
    most = numba.config.NUMBA_NUM_THREADS
    if most < 2:
        pytest.skip("needs two threads")
    origins, directions = random_rays(1000, seed=9)
    binaries = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    before, results = numba.get_num_threads(), []
    for threads in (1, most):
        numba.set_num_threads(threads)
        results.append(as_tuples(march(origins, directions, binaries, BOX, 0.03)))
    numba.set_num_threads(before)
    assert results[0] == results[1]


def test_wrong_arguments_are_named():
    origins, directions = random_rays(4, seed=0)
    full = torch.ones(2, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="origins"):
        march(origins[:, :2], directions, full, BOX, 0.1)
    with pytest.raises(ValueError, match="directions: expected unit"):
        march(origins, 0 * directions, full, BOX, 0.1)
    with pytest.raises(ValueError, match="binaries"):
        march(origins, directions, full.float(), BOX, 0.1)
    with pytest.raises(ValueError, match="aabb"):
        march(origins, directions, full, -BOX, 0.1)
    with pytest.raises(ValueError, match="jitter"):
        march(origins, directions, full, BOX, 0.1, jitter=torch.zeros(3))
    for step in (0.0, -0.1, 1e-9, float("nan")):
        with pytest.raises(ValueError, match="step"):
            march(origins, directions, full, BOX, step)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpus_sampler_gives_the_same_samples():
    origins, directions = random_rays(2000, seed=9)
    binaries = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    jitter = torch.rand(2000, generator=torch.Generator().manual_seed(1))
    ours = march(origins, directions, binaries, BOX, 0.03, 0.1, 9.0, jitter)
    cuda = [tensor.cuda() for tensor in (origins, directions, binaries, BOX)]
    theirs = march(*cuda, 0.03, 0.1, 9.0, jitter.cuda())
    # The GPU fuses multiplications with additions, which may move a cell's face by a rounding.
    mine, others = set(as_tuples(ours)), set(as_tuples(theirs))
    assert len(mine ^ others) <= len(mine) // 1000

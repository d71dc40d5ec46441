"""Volume rendering against a float64 loop, closed forms and nerfacc's dense functions."""

from __future__ import annotations

import math

import nerfacc
import numba
import pytest
import torch

from maquette.coarse.compositing import accumulate, render_weights, torch_accumulate, torch_weights
from tests.reference.volume_loop import accumulate_loop, weights_loop


def packed(counts: list[int], seed: int = 0, dtype=torch.float32):
    """Density, starts, ends and ray indices of rays with so many samples each, gaps among them."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    density = torch.rand(total, generator=generator, dtype=dtype) * 20
    density[::5] = 0
    ray_indices = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    starts = torch.arange(total, dtype=dtype) * 0.1
    lengths = 0.02 + 0.08 * torch.rand(total, generator=generator, dtype=dtype)
    return density, starts, starts + lengths, ray_indices


COUNTS = [7, 0, 1, 12, 0, 0, 30, 5, 0]


def torch_render_weights(density, starts, ends, ray_indices, num_rays):
    return torch_weights(density * (ends - starts), ray_indices, num_rays)


@pytest.mark.parametrize("render", [render_weights, torch_render_weights])
def test_weights_equal_the_loop_in_value_and_gradient(render):
    density, starts, ends, rays = packed(COUNTS)
    cotangent = torch.randn(density.shape, generator=torch.Generator().manual_seed(1))
    density.requires_grad_()
    fast = render(density, starts, ends, rays, len(COUNTS))
    (fast_grad,) = torch.autograd.grad(fast, density, cotangent)
    exact = density.detach().double().requires_grad_()
    slow = weights_loop(exact, starts, ends, rays, len(COUNTS))
    (slow_grad,) = torch.autograd.grad(slow, exact, cotangent.double())
    assert torch.allclose(fast.double(), slow, atol=1e-6)
    assert torch.allclose(fast_grad.double(), slow_grad, atol=1e-6)
    assert float(slow_grad.abs().max()) > 0.01


def test_the_compiled_gradient_is_that_of_finite_differences():
    density, starts, ends, rays = packed([6, 0, 4], seed=3)
    cotangent = torch.randn(10, generator=torch.Generator().manual_seed(4))
    density.requires_grad_()
    weights = render_weights(density, starts, ends, rays, 3)
    (grad,) = torch.autograd.grad(weights, density, cotangent)
    exact, eps = density.detach().double(), 1e-5
    for i in range(10):
        nudge = torch.zeros(10, dtype=torch.float64)
        nudge[i] = eps
        up, down = (
            (weights_loop(exact + s * nudge, starts, ends, rays, 3) * cotangent).sum()
            for s in (1, -1)
        )
        assert float(grad[i]) == pytest.approx(float(up - down) / (2 * eps), abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("fold", [accumulate, torch_accumulate])
def test_sums_equal_the_loop_in_value_and_gradient(channels, fold):
    generator = torch.Generator().manual_seed(0)
    _, _, _, rays = packed(COUNTS)
    weights = torch.randn(rays.shape[0], generator=generator).requires_grad_()
    values = torch.randn(rays.shape[0], channels, generator=generator).requires_grad_()
    cotangent = torch.randn(len(COUNTS), channels, generator=generator)
    fast = fold(weights, values, rays, len(COUNTS))
    slow = accumulate_loop(weights, values, rays, len(COUNTS))
    assert torch.allclose(fast.double(), slow, atol=1e-5)
    assert not fast[1].any()
    assert fast.shape == (len(COUNTS), channels)
    ours = torch.autograd.grad(fast, (weights, values), cotangent)
    theirs = torch.autograd.grad(slow, (weights, values), cotangent.double())
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_without_values_the_sum_is_the_opacity():
    density, starts, ends, rays = packed(COUNTS)
    weights = render_weights(density, starts, ends, rays, len(COUNTS))
    opacity = accumulate(weights, None, rays, len(COUNTS))
    assert opacity.shape == (len(COUNTS), 1)
    depth = torch.zeros(len(COUNTS)).index_add(0, rays, density * (ends - starts))
    assert torch.allclose(opacity[:, 0], 1 - torch.exp(-depth), atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6, 1e30])
def test_weights_are_a_share_of_the_light(scale):
    density, starts, ends, rays = packed([200, 50], seed=2)
    weights = render_weights(density * scale, starts, ends, rays, 2)
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (accumulate(weights, None, rays, 2) <= 1 + 1e-6).all()


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_a_slab_of_constant_density_is_as_opaque_as_beer_and_lambert_say(count):
    sigma, thickness = 0.8, 1.7
    edges = torch.linspace(0.5, 0.5 + thickness, count + 1)
    rays = torch.zeros(count, dtype=torch.int64)
    weights = render_weights(torch.full((count,), sigma), edges[:-1], edges[1:], rays, 1)
    opacity = float(accumulate(weights, None, rays, 1))
    assert opacity == pytest.approx(1 - math.exp(-sigma * thickness), abs=1e-6)


def test_the_depth_of_a_dense_slab_is_its_front():
    edges = torch.linspace(1.0, 2.0, 1001)
    rays = torch.zeros(1000, dtype=torch.int64)
    density = torch.where(edges[:-1] < 1.4, 0.0, 1e5)
    weights = render_weights(density, edges[:-1], edges[1:], rays, 1)
    depth = accumulate(weights, 0.5 * (edges[:-1] + edges[1:])[:, None], rays, 1)
    assert float(depth) == pytest.approx(1.4, abs=2e-3)


def test_weights_equal_nerfaccs_on_rays_of_equal_length():
    density, starts, ends, rays = packed([16] * 10)
    theirs, _, _ = nerfacc.render_weight_from_density(
        starts.view(10, 16), ends.view(10, 16), density.view(10, 16)
    )
    ours = render_weights(density, starts, ends, rays, 10)
    assert torch.allclose(ours.view(10, 16), theirs, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_samples_leave_every_ray_empty(dtype):
    nothing = torch.zeros(0, dtype=dtype).requires_grad_()
    rays = torch.zeros(0, dtype=torch.int64)
    weights = render_weights(nothing, nothing.detach(), nothing.detach(), rays, 3)
    total = accumulate(weights, torch.zeros(0, 3, dtype=dtype), rays, 3)
    assert weights.shape == (0,)
    assert torch.equal(total, torch.zeros(3, 3, dtype=dtype))
    (slope,) = torch.autograd.grad(total.sum(), nothing)
    assert slope.shape == (0,)
    assert accumulate(weights, None, rays, 0).shape == (0, 1)


def test_float64_passes_gradcheck():
    density, starts, ends, rays = packed([4, 0, 3], dtype=torch.float64)
    values = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def colour(density, values):
        return accumulate(render_weights(density, starts, ends, rays, 3), values, rays, 3)

    assert torch.autograd.gradcheck(colour, (density.requires_grad_(), values.requires_grad_()))


def test_the_bits_repeat_whatever_the_number_of_threads():
    most = numba.config.NUMBA_NUM_THREADS
    if most < 2:
        pytest.skip("needs two threads")
    density, starts, ends, rays = packed([40] * 500, seed=6)
    values = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(1))
    cotangent = torch.randn(500, 3, generator=torch.Generator().manual_seed(2))
    before, results = numba.get_num_threads(), []
    for threads in (1, most, most):
        numba.set_num_threads(threads)
        x, v = density.clone().requires_grad_(), values.clone().requires_grad_()
        total = accumulate(render_weights(x, starts, ends, rays, 500), v, rays, 500)
        results.append((total.detach(), *torch.autograd.grad(total, (x, v), cotangent)))
    numba.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_wrong_arguments_are_named():
    density, starts, ends, rays = packed([3, 4])
    with pytest.raises(ValueError, match="t_ends"):
        render_weights(density, starts, ends[:-1], rays, 2)
    with pytest.raises(ValueError, match="ray_indices: expected one index"):
        render_weights(density, starts, ends, rays[:-1], 2)
    with pytest.raises(ValueError, match="ascending"):
        render_weights(density, starts, ends, rays.flip(0), 2)
    with pytest.raises(ValueError, match="ray_indices"):
        render_weights(density, starts, ends, rays, 1)
    with pytest.raises(ValueError, match="values"):
        accumulate(density, starts, rays, 2)

"""The hash encoding: its layout, its closed forms, and the twins against each other."""

from __future__ import annotations

import math

import numba
import pytest
import torch

from maquette.common.fields.hashgrid import (
    HashGrid,
    HashGridConfig,
    encode,
    extend,
    is_hashed,
    numba_twin,
    reference,
    resolutions,
    table_offsets,
    table_sizes,
    twin,
)

# Two dense levels and three hashed ones.
SMALL = {"levels": 5, "log2_entries": 10, "base_resolution": 4, "finest_resolution": 33}


def grid(features: int = 2, **changes) -> HashGridConfig:
    return HashGridConfig(**{**SMALL, "features": features, **changes})


def random_tables(config: HashGridConfig, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (table_offsets(config)[-1], config.features)
    return torch.randn(shape, generator=generator, dtype=dtype)


def random_points(count: int, seed: int = 1, dtype=torch.float32) -> torch.Tensor:
    """Points of the box, its corners and some outside of it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 3, generator=generator, dtype=dtype) * 1.1 - 0.05
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=dtype)] * 3)
    return torch.cat([x, corners])


def gradients(encoder, x, tables, config, cotangent):
    """Value and both gradients of an encoder under a cotangent."""
    x, tables = x.clone().requires_grad_(), tables.clone().requires_grad_()
    out = encoder(x, tables, config)
    return (out.detach(), *torch.autograd.grad(out, (x, tables), cotangent))


def test_the_default_is_magic3ds_coarse_grid():
    config = HashGridConfig()
    assert resolutions(config)[0] == 16
    assert resolutions(config)[-1] == 4096
    assert max(table_sizes(config)) == 2**19
    assert table_sizes(config)[0] == 17**3


@pytest.mark.parametrize("finest", [17, 100, 255, 256, 2048, 4096])
@pytest.mark.parametrize("levels", [2, 5, 8, 16])
def test_growth_meets_the_finest_resolution(levels, finest):
    config = HashGridConfig(levels=levels, base_resolution=16, finest_resolution=finest)
    assert resolutions(config)[0] == 16
    assert resolutions(config)[-1] == finest


def test_levels_are_dense_until_their_corners_outgrow_the_table():
    config = grid()
    assert resolutions(config) == [4, 6, 11, 19, 33]
    assert table_sizes(config) == [125, 343, 1024, 1024, 1024]
    assert is_hashed(config) == [False, False, True, True, True]
    assert table_offsets(config) == [0, 125, 468, 1492, 2516, 3540]


@pytest.mark.parametrize(
    "wrong",
    [{"levels": 0}, {"features": 0}, {"finest_resolution": 3}, {"log2_entries": 40},
     {"finest_resolution": 2**20 + 1}, {"extra_levels": 16, "finest_resolution": 400}],
)  # fmt: skip
def test_a_config_that_makes_no_grid_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        grid(**wrong)


@pytest.mark.parametrize("encoder", [reference.encode, numba_twin.encode])
def test_a_dense_level_reproduces_a_linear_function(encoder):
    config = HashGridConfig(
        levels=1, features=2, log2_entries=12, base_resolution=8, finest_resolution=8
    )
    lattice = torch.arange(9) / 8
    z, y, x = torch.meshgrid(lattice, lattice, lattice, indexing="ij")
    linear = (3 * x - 2 * y + 5 * z + 1).reshape(-1)  # x fastest
    tables = torch.stack([linear, -linear], dim=-1)
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    out = encoder(points, tables, config)
    expected = points.detach() @ torch.tensor([3.0, -2.0, 5.0]) + 1
    assert torch.allclose(out[:, 0], expected, atol=1e-5)
    assert torch.equal(out[:, 1], -out[:, 0])
    (slope,) = torch.autograd.grad(out[:, 0].sum(), points)
    assert torch.allclose(slope, torch.tensor([3.0, -2.0, 5.0]).expand(200, 3), atol=1e-4)


@pytest.mark.parametrize("encoder", [reference.encode, numba_twin.encode])
def test_a_hashed_corner_reads_the_entry_of_equation_4(encoder):
    config = grid(levels=5)
    level, n = 4, resolutions(config)[4]
    tables = random_tables(config)
    for ix, iy, iz in [(0, 0, 0), (1, 0, 0), (3, 7, 20), (33, 33, 33), (32, 1, 33)]:
        mixed = ix ^ (iy * 2_654_435_761 % 2**32) ^ (iz * 805_459_861 % 2**32)
        entry = table_offsets(config)[level] + mixed % 1024
        point = torch.tensor([[ix, iy, iz]], dtype=torch.float32) / n
        out = encoder(point, tables, config)[0, 2 * level : 2 * level + 2]
        assert torch.allclose(out, tables[entry], atol=1e-4)


@pytest.mark.parametrize("features", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_numba_twin_equals_the_reference_in_value_and_gradient(features):
    config = grid(features)
    x, tables = random_points(500), random_tables(config)
    cotangent = torch.randn(
        x.shape[0], config.levels * features, generator=torch.Generator().manual_seed(5)
    )
    cotangent[::3] = 0  # samples without a cotangent take a path of their own
    cotangent[1::4, :features] = 0
    slow = gradients(reference.encode, x, tables, config, cotangent)
    fast = gradients(numba_twin.encode, x, tables, config, cotangent)
    for name, a, b in zip(("value", "x", "tables"), slow, fast, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max())), name
    assert float(slow[1].abs().max()) > 1
    assert float(slow[2].abs().max()) > 1


def test_the_twins_agree_across_runs_of_points():
    config = grid()
    x, tables = random_points(2 * numba_twin.RUN + 77), random_tables(config)
    slow, fast = reference.encode(x, tables, config), numba_twin.encode(x, tables, config)
    assert torch.allclose(slow, fast, atol=1e-5)


def test_the_reference_has_the_gradient_of_finite_differences():
    config = grid(levels=3)
    x = random_points(6, dtype=torch.float64)[:6].clamp(0.01, 0.99)
    tables = random_tables(config, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, t: reference.encode(x, t, config),
        (x.requires_grad_(), tables.requires_grad_()),
        fast_mode=True,
        eps=1e-7,
    )


def test_points_outside_take_the_boundarys_value_and_no_gradient():
    config = grid()
    tables = random_tables(config)
    outside = torch.tensor([[-0.5, 0.3, 0.6], [0.2, 1.5, 0.9]])
    inside = outside.clamp(0, 1)
    assert torch.equal(encode(outside, tables, config), encode(inside, tables, config))
    outside.requires_grad_()
    (slope,) = torch.autograd.grad(encode(outside, tables, config).sum(), outside)
    assert slope[0, 0] == 0
    assert slope[1, 1] == 0
    assert slope[0, 1] != 0
    assert slope[1, 0] != 0


def test_nan_is_passed_on_and_reads_nothing_out_of_bounds():
    config = grid()
    x = torch.tensor([[0.1, math.nan, 0.3], [0.1, 0.2, 0.3]])
    out = numba_twin.encode(x, random_tables(config), config)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


def test_no_points_encode_to_nothing():
    config = grid()
    x, tables = torch.zeros(0, 3), random_tables(config).requires_grad_()
    for encoder in (reference.encode, numba_twin.encode):
        out = encoder(x, tables, config)
        assert out.shape == (0, 10)
        (slope,) = torch.autograd.grad(out.sum(), tables)
        assert slope.shape == tables.shape
        assert not slope.any()


@pytest.mark.parametrize("more", [0, 1, 3])
def test_more_levels_leave_the_first_ones_as_they_are(more):
    config = grid()
    tables, x = random_tables(config), random_points(100)
    longer_tables, longer = extend(tables, config, more)
    assert longer.depth == config.levels + more
    out = encode(x, longer_tables, longer)
    assert torch.equal(out[:, :10], encode(x, tables, config))
    assert not out[:, 10:].any()


def test_the_bits_repeat_whatever_the_number_of_threads():
    most = numba.config.NUMBA_NUM_THREADS
    if most < 2:
        pytest.skip("needs two threads")
    config = grid()
    x, tables = random_points(3 * numba_twin.RUN), random_tables(config)
    cotangent = torch.randn(x.shape[0], 10, generator=torch.Generator().manual_seed(2))
    before, results = numba.get_num_threads(), []
    for threads in (1, most, most):
        numba.set_num_threads(threads)
        results.append(gradients(numba_twin.encode, x, tables, config, cotangent))
    numba.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_encode_chooses_by_device_and_dtype_and_says_why():
    assert twin("cpu").name == "numba"
    assert twin("cpu", torch.float64).name == "torch"
    assert "float32" in str(twin("cpu", torch.float64))
    assert twin("meta").name == "torch"
    config = grid()
    x, tables = random_points(20).double(), random_tables(config).double()
    assert torch.equal(encode(x, tables, config), reference.encode(x, tables, config))


def test_the_module_learns_a_field_from_its_own_seed():
    config = grid()
    first = HashGrid(config, torch.Generator().manual_seed(7))
    again = HashGrid(config, torch.Generator().manual_seed(7))
    assert torch.equal(first.tables, again.tables)
    assert 0.9e-4 < float(first.tables.detach().abs().max()) <= 1e-4
    assert first.width == 10
    x = random_points(2000).clamp(0, 1)
    target = torch.sin(6 * x.sum(dim=-1, keepdim=True))
    optimizer = torch.optim.Adam(first.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = (first(x).sum(dim=-1, keepdim=True) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.3
    assert losses[-1] < 0.02


def test_wrong_arguments_are_named():
    config = grid()
    tables = random_tables(config)
    with pytest.raises(ValueError, match=r"x: expected \[N, 3\]"):
        encode(torch.zeros(4, 2), tables, config)
    with pytest.raises(ValueError, match="tables: expected"):
        encode(torch.zeros(4, 3), tables[:-1], config)
    with pytest.raises(ValueError, match="tables: expected float32"):
        numba_twin.encode(torch.zeros(4, 3), tables.double(), config)


@pytest.mark.parametrize("features", [1, 2, 4])
def test_the_triton_twin_equals_the_reference_in_value_and_gradient(features):
    """On a GPU, or in Triton's interpreter."""
    pytest.importorskip("triton")
    triton_twin = pytest.importorskip("maquette.common.fields.hashgrid.triton_twin")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = grid(features)
    x, tables = random_points(60).to(device), random_tables(config).to(device)
    generator = torch.Generator().manual_seed(5)
    cotangent = torch.randn(x.shape[0], config.levels * features, generator=generator).to(device)
    slow = gradients(reference.encode, x, tables, config, cotangent)
    fast = gradients(triton_twin.encode, x, tables, config, cotangent)
    for name, a, b in zip(("value", "x", "tables"), slow, fast, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max())), name

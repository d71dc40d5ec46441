"""The hash field: world points in, and growth that changes nothing until it learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from maquette.common import backends
from maquette.common.config.backends import BackendsConfig
from maquette.common.config.fields import HashGridConfig
from maquette.common.fields.field import HashField, grow
from maquette.common.fields.hashgrid import resolutions, table_offsets

GRID = HashGridConfig(
    levels=3, features=2, log2_entries=10, base_resolution=4, finest_resolution=16
)
POINTS = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


def field() -> HashField:
    torch.manual_seed(4)
    made = HashField(GRID, hidden=8, outputs=4)
    with torch.no_grad():
        made.grid.tables.uniform_(-1, 1)
    return made


@pytest.mark.parametrize(("levels", "base", "finest"), [(3, 4, 16), (16, 16, 4096), (8, 8, 128)])
def test_the_finest_level_is_the_one_asked_for(levels: int, base: int, finest: int) -> None:
    made = HashGridConfig(levels=levels, base_resolution=base, finest_resolution=finest)
    found = resolutions(made)
    assert (len(found), found[0], found[-1]) == (levels, base, finest)


def test_values_are_grid_then_one_hidden_layer() -> None:
    made = field()
    features = made.encode(POINTS)
    assert features.shape == (200, 6)
    expected = F.relu(features @ made.hidden.weight.T + made.hidden.bias) @ made.out.weight.T
    torch.testing.assert_close(made(POINTS), expected + made.out.bias)


def test_lattice_points_of_the_world_cube_are_those_of_the_grid() -> None:
    """The corner -1 of the cube is entry 0 of the first level, the corner +1 its last."""
    made = field()
    ends = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    tables = made.grid.tables
    last = table_offsets(GRID)[1] - 1
    torch.testing.assert_close(made.encode(ends)[:, :2], tables[[0, last]])
    centre = made.encode(torch.zeros(1, 3))[0, :2]  # the middle of 4 cells is a lattice point
    torch.testing.assert_close(centre, tables[(2 * 5 + 2) * 5 + 2])


def test_points_outside_take_the_value_of_the_cube_s_nearest_point() -> None:
    made = field()
    outside = torch.tensor([[3.0, 0.2, -0.4], [-9, -9, 9]])
    assert torch.equal(made(outside), made(outside.clamp(-1, 1)))


@pytest.mark.parametrize("extra", [1, 3])
def test_a_grown_field_has_the_same_values(extra: int) -> None:
    made = field()
    grown = grow(made, extra)
    assert (grown.grid.config.levels, grown.grid.config.depth) == (3, 3 + extra)
    assert resolutions(grown.grid.config)[:3] == resolutions(GRID)
    torch.testing.assert_close(grown(POINTS), made(POINTS), atol=1e-6, rtol=1e-6)


def test_new_levels_learn_though_they_do_nothing_yet() -> None:
    made = field()
    grown = grow(made, 2)
    grown(POINTS).square().sum().backward()
    new = table_offsets(GRID)[-1]
    gradient = grown.grid.tables.grad
    assert gradient is not None
    assert bool((grown.grid.tables[new:] == 0).all())
    assert float(gradient[new:].abs().max()) > 0.0
    # A step down that gradient changes the field where the old levels alone could not.
    with torch.no_grad():
        grown.grid.tables[new:] -= 0.1 * gradient[new:]
    assert float((grown(POINTS) - made(POINTS)).detach().abs().max()) > 1e-3


def test_a_field_is_built_again_from_its_shape() -> None:
    grown = grow(field(), 2)
    again = HashField.blank(grown.shape())
    assert again.grid.config == grown.grid.config
    again.load_state_dict(grown.state_dict())
    assert torch.equal(again(POINTS), grown(POINTS))
    with pytest.raises(ValueError, match="shape: expected"):
        HashField.blank(torch.tensor([1, 2]))


def test_growing_by_nothing_is_the_field_itself() -> None:
    made = field()
    assert grow(made, 0) is made


def test_the_gradient_of_position_matches_finite_differences() -> None:
    made = field().double()
    # Away from the cells' faces, where the slope of a trilinear grid jumps.
    point = torch.tensor([[0.031, 0.207, -0.411]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, (point,), eps=1e-6, atol=1e-5)


def test_small_networks_may_multiply_in_bfloat16() -> None:
    made = field()
    plain = made(POINTS)
    backends.use(BackendsConfig(networks="bfloat16"))
    other = made(POINTS)
    assert other.dtype == torch.float32
    assert not torch.equal(other, plain)
    assert torch.allclose(other, plain, atol=0.03 * float(plain.detach().abs().max()))
    (slope,) = torch.autograd.grad(other.sum(), made.hidden.weight)
    assert slope.dtype == torch.float32


def test_tf32_is_asked_for_and_taken_back() -> None:
    backends.use(BackendsConfig(networks="tf32"))
    assert torch.get_float32_matmul_precision() == "high"
    backends.use(BackendsConfig())
    assert torch.get_float32_matmul_precision() == "highest"

"""The fine model: a surface that closes, pictures of known shapes, and gradients that fit them."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from maquette.coarse.nerf import albedo_field
from maquette.common.config.fields import HashGridConfig
from maquette.common.config.models import FieldConfig, FineConfig
from maquette.common.config.reading import build_config
from maquette.common.errors import UserError
from maquette.common.fields.field import HashField
from maquette.common.scene.cameras import orbit
from maquette.common.scene.mesh import Mesh
from maquette.common.scene.shading import ALBEDO, Lights, headlights
from maquette.fine.first_shape import FirstShape
from maquette.fine.model import FineModel, boundary_points, render_surface
from maquette.fine.tetgrid import TetGrid
from maquette.fine.texture import Texture, texture_of

CELLS, RADIUS, SIZE = 24, 0.7, 64
GRID = TetGrid(CELLS)
FIELD = FieldConfig(
    grid=HashGridConfig(
        levels=2, features=2, log2_entries=8, base_resolution=4, finest_resolution=8
    ),
    hidden=8,
)
BLACK = torch.zeros(3)


def texture(color: float | None = None) -> Texture:
    """A texture with variety, or of one grey."""
    torch.manual_seed(1)
    field = HashField(FIELD.grid, FIELD.hidden, outputs=4)
    with torch.no_grad():
        field.grid.tables.uniform_(-2, 2)
        if color is not None:
            field.out.weight.zero_()
            field.out.bias.fill_(math.log(color / (1 - color)))
    return texture_of(albedo_field(field), 0)


def ball_distance(radius: float = RADIUS) -> Tensor:
    """Signed distance to a ball, in cells."""
    return (GRID.vertices().norm(dim=-1) - radius) / GRID.cell_size


def model(sdf: Tensor | None = None, color: float | None = None) -> FineModel:
    return FineModel(GRID, ball_distance() if sdf is None else sdf, texture(color))


def solid(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def albedo_lights(count: int) -> Lights:
    return Lights(torch.zeros(count, 3), torch.ones(count), torch.full((count,), ALBEDO))


def test_the_first_surface_is_the_distance_s_zero() -> None:
    mesh = model().mesh()
    assert float((mesh.vertices.norm(dim=-1) - RADIUS).abs().max()) < 0.05 * GRID.cell_size
    shape = solid(mesh)
    assert shape.is_watertight
    assert shape.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.02)


@pytest.mark.parametrize(
    "sdf",
    [
        torch.full(((CELLS + 1) ** 3,), -1.0),  # all inside
        GRID.vertices()[:, 0] / GRID.cell_size - 0.5,  # half of the cube
        ball_distance(1.3),  # a ball that the cube cuts
        -ball_distance(0.5),  # everything but a ball
    ],
)
def test_a_surface_that_reaches_the_cube_s_faces_closes_there(sdf: Tensor) -> None:
    shape = solid(model(sdf).mesh())
    assert shape.is_watertight
    assert shape.is_winding_consistent
    assert shape.volume > 0.5
    assert abs(shape.bounds).max() < 1.0


def test_faces_of_the_cube_by_hand() -> None:
    on = boundary_points(CELLS)
    assert int(on.sum()) == (CELLS + 1) ** 3 - (CELLS - 1) ** 3
    assert torch.equal(on, GRID.vertices().abs().max(dim=1).values == 1.0)


def test_a_mesh_that_has_vanished_is_told() -> None:
    with pytest.raises(UserError, match=r"vanished.*sdf_learning_rate"):
        model(torch.ones((CELLS + 1) ** 3)).surface()


def test_every_part_learns_at_its_own_rate() -> None:
    config = build_config("a red mushroom").fine
    groups = model().learner(config).optimizer.param_groups
    assert [group["lr"] for group in groups] == [
        config.geometry.sdf_learning_rate,
        config.geometry.offset_learning_rate,
        config.texture.learning_rate,
    ]


def test_a_new_model_of_the_first_shape_takes_a_checkpoint() -> None:
    config = FineConfig.model_validate({"geometry": {"resolution": CELLS}})
    one = model()
    with torch.no_grad():
        one.offset.value.normal_()
    torch.manual_seed(9)
    color = HashField(FIELD.grid, FIELD.hidden, outputs=3)
    shape = FirstShape(ball_distance(0.4), color, BLACK)
    blank = FineModel.begin(shape, config, torch.device("cpu"))
    blank.learner(config).load(one.learner(config).tensors())
    for a, b in zip(one.surface(), blank.surface(), strict=True):
        assert torch.equal(a, b)
    points = torch.rand(20, 3)
    assert torch.equal(one.albedo(points), blank.albedo(points))


def test_offsets_move_the_surface_and_keep_it_closed() -> None:
    one = model()
    before = one.mesh()
    with torch.no_grad():
        one.offset.value.normal_(std=5.0)
    after = one.mesh()
    assert torch.equal(before.faces, after.faces)
    moved = (after.vertices - before.vertices).norm(dim=-1)
    assert 0.05 * GRID.cell_size < float(moved.max()) < 0.3 * GRID.cell_size
    assert solid(after).is_watertight


def test_mesh_and_albedo_have_left_the_graph() -> None:
    one = model()
    assert not one.mesh().vertices.requires_grad
    colors = one.albedo(torch.rand(5, 3))
    assert colors.shape == (5, 3)
    assert not colors.requires_grad


def test_a_ball_is_lit_by_the_lamp_in_the_camera() -> None:
    cameras = orbit(2)
    one = model(color=0.8)
    image = render_surface(
        one.surface(), one.texture, cameras, headlights(cameras.position, 0.3), SIZE, BLACK
    ).image.detach()
    origins, directions = cameras.rays(SIZE, SIZE)
    middle = -(origins * directions).sum(dim=-1)
    under = RADIUS**2 - (origins**2).sum(dim=-1) + middle**2
    points = origins + (middle - under.clamp_min(0).sqrt())[..., None] * directions
    towards = torch.nn.functional.normalize(origins - points, dim=-1)
    facing = (points / RADIUS * towards).sum(dim=-1)
    sure, empty = under > 0.05, under < -0.1
    wanted = 0.8 * (0.3 + 0.7 * facing)
    torch.testing.assert_close(image[sure][:, 0], wanted[sure], atol=0.03, rtol=0)
    assert float(image[empty].abs().max()) == 0.0


def test_the_colors_are_the_texture_s() -> None:
    cameras = orbit(1)
    one = model()
    image = render_surface(
        one.surface(), one.texture, cameras, albedo_lights(1), SIZE, BLACK
    ).image.detach()
    origins, directions = cameras.rays(SIZE, SIZE)
    middle = -(origins * directions).sum(dim=-1)
    under = RADIUS**2 - (origins**2).sum(dim=-1) + middle**2
    points = origins + (middle - under.clamp_min(0).sqrt())[..., None] * directions
    sure = under > 0.1
    error = (image[sure] - one.albedo(points[sure])).abs()
    assert float(error.mean()) < 0.01


def test_views_of_a_batch_are_those_of_its_cameras() -> None:
    cameras, one = orbit(3), model()
    lights = headlights(cameras.position, 0.3)
    surface = one.surface()
    both = render_surface(surface, one.texture, cameras, lights, SIZE, BLACK).image
    for index in range(3):
        here = slice(index, index + 1)
        own = Lights(lights.position[here], lights.ambient[here], lights.mode[here])
        alone = render_surface(surface, one.texture, cameras[here], own, SIZE, BLACK).image
        torch.testing.assert_close(both[index], alone[0], atol=1e-5, rtol=0)


def test_a_growing_ball_gains_the_area_that_its_closed_form_gains() -> None:
    """Antialiased silhouettes: d(white area) / d(radius), through the distances of all points."""
    cameras, one = orbit(2, elevation_deg=20.0), model(color=0.999)
    surface = one.surface()
    image = render_surface(surface, one.texture, cameras, albedo_lights(2), 96, BLACK).image
    (image[..., 0].sum() / 2).backward()
    assert one.sdf.value.grad is not None
    # One cell less of distance everywhere is one cell more of radius.
    found = -float(one.sdf.value.grad.sum()) / GRID.cell_size

    def area(radius: float) -> float:
        tangent = radius / math.sqrt(9 - radius**2) / math.tan(math.radians(20))
        return math.pi * (tangent * 96 / 2) ** 2

    wanted = (area(RADIUS + 1e-3) - area(RADIUS - 1e-3)) / 2e-3
    assert found == pytest.approx(wanted, rel=0.08)
    assert float(image[..., 0].sum().detach() / 2) == pytest.approx(area(RADIUS), rel=0.02)


def test_the_texture_s_gradient_is_its_own_and_shading_s_is_the_shape_s() -> None:
    cameras, one = orbit(1), model()
    middle = SIZE // 2

    def gradients(lights: Lights) -> tuple[Tensor, Tensor]:
        surface = one.surface()
        image = render_surface(surface, one.texture, cameras, lights, SIZE, BLACK).image
        inner = image[0, middle - 4 : middle + 4, middle - 4 : middle + 4].sum()
        table = one.texture.field.grid.tables
        shape, paint = torch.autograd.grad(inner, [one.sdf.value, table], allow_unused=True)
        return torch.zeros(1) if shape is None else shape, paint

    shape, paint = gradients(albedo_lights(1))
    assert float(shape.abs().max()) == 0.0
    assert float(paint.abs().max()) > 0.0
    off_axis = Lights(torch.tensor([[3.0, 3.0, 0]]), torch.tensor([0.2]), torch.tensor([2]))
    shape, paint = gradients(off_axis)
    assert float(shape.abs().max()) > 1e-3
    assert float(paint.abs().max()) > 0.0


def test_views_of_what_is_painted_tell_where_the_surface_lies() -> None:
    cameras, one = orbit(2), model()
    surface, lights = one.surface(), headlights(cameras.position, 0.3)
    drawn = (surface, one.texture, cameras, lights, SIZE, BLACK)
    assert render_surface(*drawn).surface is None
    seen = render_surface(*drawn, painting=True).surface
    assert seen is not None
    assert not seen.requires_grad
    covered, normals, points = seen.split((1, 3, 3), dim=-1)
    on = covered[..., 0] > 0
    # On a ball the normal is the point's own direction.
    torch.testing.assert_close(normals[on], points[on] / RADIUS, atol=0.1, rtol=0)
    assert not points[~on].any()


def test_views_know_their_opacity_and_can_be_put_before_something_else() -> None:
    cameras, one = orbit(2), model()
    surface, lights = one.surface(), headlights(cameras.position, 0.3)
    backdrop, other = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.2, 0.7, 0.1])
    views = render_surface(surface, one.texture, cameras, lights, SIZE, backdrop)
    white = render_surface(surface, model(0 * ball_distance() + ball_distance(), 0.999).texture,
                           cameras, albedo_lights(2), SIZE, BLACK).image / 0.999  # fmt: skip
    torch.testing.assert_close(views.opacity, white[..., 0], atol=1e-5, rtol=0)
    expected = render_surface(surface, one.texture, cameras, lights, SIZE, other)
    torch.testing.assert_close(views.before(other), expected.image, atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(views.opacity.sum(), one.sdf.value)
    assert float(gradient.sum()) < 0.0  # less distance everywhere is more that is covered

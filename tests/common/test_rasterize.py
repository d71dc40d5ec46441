"""The rasterizer against hand-worked pixels, slow loops, rays, and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from scipy import ndimage
from torch import Tensor

from maquette.common.rasterize import (
    antialias,
    interpolate,
    rasterize,
    scatter_image,
    visible_faces,
)
from maquette.common.rasterize.interpolate import (
    barycentrics,
    barycentrics_torch,
    gather_rows,
    weighted_rows_torch,
)
from maquette.common.scene.cameras import Cameras, orbit, sphere_views
from tests.reference.raster_loop import antialias_loop, depth_loop, visible_faces_loop


def clip_of_pixels(points: Tensor, height: int, width: int, w: float | Tensor = 1.0) -> Tensor:
    """Clip positions `[1, V, 4]` of screen positions and z/w `[V, 3]`, at depth w."""
    x = points[:, 0] * 2 / width - 1
    y = 1 - points[:, 1] * 2 / height
    one = torch.ones_like(x)
    return (torch.stack([x, y, points[:, 2], one], dim=1) * torch.as_tensor(w).reshape(-1, 1))[None]


def flat_mvp(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A matrix `[1, 4, 4]` that takes (x px, y px, depth) to clip, with w = 1 throughout."""
    mvp = torch.eye(4, dtype=dtype)[None].clone()
    mvp[0, 0, 0], mvp[0, 0, 3] = 2 / width, -1
    mvp[0, 1, 1], mvp[0, 1, 3] = -2 / height, 1
    return mvp


def sphere(subdivisions: int, radius: float = 0.8) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(np.array(mesh.faces))


def soup(seed: int, count: int, views: int = 1) -> tuple[Tensor, Tensor]:
    """Random triangles with perspective, some of them in part off the screen."""
    generator = torch.Generator().manual_seed(seed)
    ndc = torch.rand(views, 3 * count, 3, generator=generator) * 2.6 - 1.3
    ndc[..., 2] *= 0.7
    w = 0.5 + 3 * torch.rand(views, 3 * count, 1, generator=generator)
    clip = torch.cat([ndc * w, w], dim=-1)
    return clip, torch.arange(3 * count).view(-1, 3)


# Visibility


def test_two_triangles_share_a_square_without_hole_or_overlap() -> None:
    points = torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [4, 4, 0]])
    clip = clip_of_pixels(points, 4, 4)
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    # The diagonal runs through pixel centres: they are on the lower triangle's left edge.
    expected = [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]
    assert visible_faces(clip, faces, 4, 4)[0].tolist() == expected
    assert visible_faces(clip, faces.flip(1), 4, 4)[0].tolist() == expected
    upper = visible_faces(clip, faces[:1], 4, 4)[0]
    lower = visible_faces(clip, faces[1:], 4, 4)[0]
    assert ((upper >= 0) ^ (lower >= 0)).all()


def test_rows_run_down_and_columns_to_the_right() -> None:
    points = torch.tensor([[1.0, 0, 0], [3.2, 0, 0], [1, 2.2, 0]])
    index = visible_faces(clip_of_pixels(points, 3, 5), torch.tensor([[0, 1, 2]]), 3, 5)[0]
    assert index.tolist() == [[-1, 0, 0, -1, -1], [-1, 0, -1, -1, -1], [-1, -1, -1, -1, -1]]


def test_centres_on_top_and_left_edges_are_inside_on_others_outside() -> None:
    square = torch.tensor([[0.5, 0.5, 0], [2.5, 0.5, 0], [2.5, 2.5, 0], [0.5, 2.5, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    index = visible_faces(clip_of_pixels(square, 4, 4), faces, 4, 4)[0]
    assert (index >= 0).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]


def test_nearest_wins_and_ties_go_to_the_lower_face() -> None:
    triangle = torch.tensor([[-9.0, -9, 0], [30, -9, 0], [-9, 30, 0]])
    depths = torch.tensor([0.5, 0.2, 0.2, 0.7])
    points = triangle.repeat(4, 1)
    points[:, 2] = depths.repeat_interleave(3)
    faces = torch.arange(12).view(4, 3)
    assert (visible_faces(clip_of_pixels(points, 8, 8), faces, 8, 8) == 1).all()
    swapped = visible_faces(clip_of_pixels(points, 8, 8), faces[[3, 2, 1, 0]], 8, 8)
    assert (swapped == 1).all()  # the same plane again, now at index 1 and 2


def test_what_is_behind_the_camera_or_beyond_the_planes_is_not_seen() -> None:
    points = torch.tensor([[-9.0, -9, 0], [30, -9, 0], [-9, 30, 0]])
    faces = torch.tensor([[0, 1, 2]])
    for w in (0.0, -1.0, torch.tensor([1.0, 1.0, -0.5])):
        assert (visible_faces(clip_of_pixels(points, 8, 8, w), faces, 8, 8) == -1).all()
    for z in (-1.01, 1.01):
        points[:, 2] = z
        assert (visible_faces(clip_of_pixels(points, 8, 8), faces, 8, 8) == -1).all()
    points[:, 2] = points[:, 0] / 4  # reaches the far plane at x = 4 px
    index = visible_faces(clip_of_pixels(points, 8, 8), faces, 8, 8)[0]
    assert (index[:, :4] == 0).all()
    assert (index[:, 4:] == -1).all()


@pytest.mark.parametrize("seed", range(3))
def test_visible_faces_equal_the_slow_loop(seed: int) -> None:
    clip, faces = soup(seed, 12, views=2)
    clip[1, 5, 3] = -0.3  # a face that goes behind the camera
    fast = visible_faces(clip, faces, 21, 33)
    for view in range(2):
        slow, margin = visible_faces_loop(clip[view].numpy(), faces.numpy(), 21, 33)
        differs = fast[view].numpy() != slow
        assert (margin[differs] < 1e-4).all()
        assert differs.mean() < 0.01
        assert len(np.unique(slow)) > 6


def test_a_triangulation_covers_every_pixel_exactly_once() -> None:
    generator = torch.Generator().manual_seed(4)
    n = 8
    grid = torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="xy"), dim=-1)
    points = (grid * 4.0 + 1.5).reshape(-1, 2)  # many vertices and edges on pixel centres
    inside = ((grid > 0) & (grid < n - 1)).all(dim=-1).reshape(-1)
    inside &= torch.rand(n * n, generator=generator) < 0.6
    points[inside] += torch.rand(int(inside.sum()), 2, generator=generator) * 3 - 1.5
    corner = (torch.arange(n - 1)[:, None] * n + torch.arange(n - 1)).reshape(-1)
    upper = torch.stack([corner, corner + 1, corner + n], dim=1)
    faces = torch.cat([upper, torch.stack([corner + 1, corner + n + 1, corner + n], dim=1)])
    clip = clip_of_pixels(torch.cat([points, torch.zeros(n * n, 1)], dim=1), 32, 32)
    covered = sum((visible_faces(clip, f[None], 32, 32)[0] >= 0).int() for f in faces)
    expected = torch.zeros(32, 32, dtype=torch.int32)
    expected[1:29, 1:29] = 1
    assert torch.equal(torch.as_tensor(covered), expected)


@pytest.mark.parametrize(("subdivisions", "size"), [(2, 128), (4, 96), (5, 64)])
def test_a_closed_sphere_has_no_holes(subdivisions: int, size: int) -> None:
    vertices, faces = sphere(subdivisions)
    cameras = sphere_views(6)
    mask = rasterize(vertices, faces, cameras.mvp(), size, size).mask[..., 0].numpy() > 0
    for view in mask:
        assert (ndimage.binary_fill_holes(view) == view).all()
    origins, directions = cameras.rays(size, size)
    closest = torch.linalg.norm(torch.linalg.cross(origins, directions), dim=-1).numpy()
    inradius = float((vertices[faces].mean(dim=1)).norm(dim=-1).min())
    assert mask[closest < inradius - 1e-5].all()
    assert not mask[closest > 0.8 + 1e-5].any()


def test_no_faces_no_cover() -> None:
    raster = rasterize(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), orbit(2).mvp(), 8, 8)
    assert (raster.face_index == -1).all()
    assert raster.pixels.shape == (0,)
    image = scatter_image(torch.zeros(0, 3), raster, torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(antialias(image, raster), image)
    assert torch.equal(image[1, 5, 5], torch.tensor([0.1, 0.2, 0.3]))


def test_bits_repeat() -> None:
    def once() -> list[Tensor]:
        vertices, faces = sphere(4)
        vertices.requires_grad_(True)
        raster = rasterize(vertices, faces, sphere_views(3).mvp(), 64, 64)
        image = scatter_image(interpolate(vertices, raster), raster, torch.zeros(3))
        smooth = antialias(image, raster)
        (grad,) = torch.autograd.grad((smooth * torch.sin(image * 40)).sum(), vertices)
        return [raster.face_index, smooth.detach(), grad]

    first = once()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, once(), strict=True))


# Barycentrics, interpolation, images


def test_positions_and_depth_equal_ray_intersections() -> None:
    vertices, faces = sphere(2)
    cameras, height, width = sphere_views(5, distance=2.5), 40, 56
    raster = rasterize(vertices, faces, cameras.mvp(width / height), height, width)
    origins, directions = (r.reshape(-1, 3)[raster.pixels] for r in cameras.rays(height, width))
    a, b, c = vertices[faces[raster.face]].unbind(dim=1)
    normal = torch.linalg.cross(b - a, c - a)
    t = ((a - origins) * normal).sum(-1) / (directions * normal).sum(-1)
    hit = origins + t[:, None] * directions
    facing = -(directions * torch.nn.functional.normalize(normal, dim=-1)).sum(-1)
    clear = facing > 0.1  # at a glance the ray's own rounding is magnified
    assert clear.float().mean() > 0.9
    assert (facing > 0).all()
    assert torch.allclose(interpolate(vertices, raster)[clear], hit[clear], atol=3e-5)
    backward = cameras.c2w[raster.view, :3, 2]
    depth = -((hit - origins) * backward).sum(-1)
    assert torch.allclose(raster.pixel_depth[clear], depth[clear], atol=3e-5)
    image = raster.depth
    assert torch.equal(image.reshape(-1)[raster.pixels], raster.pixel_depth)
    assert (image[raster.face_index < 0] == 0).all()


def test_raster_names_its_pixels() -> None:
    vertices, faces = sphere(1)
    raster = rasterize(vertices, faces, sphere_views(3).mvp(1.5), 16, 24)
    place = (raster.view, raster.row, raster.col)
    assert torch.equal(raster.face_index[place], raster.face)
    assert raster.mask.sum() == raster.pixels.shape[0] > 100
    assert (raster.bary >= 0).all()
    assert torch.allclose(raster.bary.sum(-1), torch.ones(1))


def test_barycentrics_equal_their_plain_twin_in_value_and_gradient() -> None:
    clip, faces = soup(7, 40, views=2)
    clip[:, faces[0]] = clip[:, faces[0, :1]] + torch.rand(3, 4) * 1e-6  # without area
    index = visible_faces(clip, faces, 48, 40).view(-1)
    pixels = torch.nonzero(index >= 0)[:, 0]
    face = index[pixels].clone()
    face[:5] = 0
    cotangent = torch.randn(pixels.shape[0], 3, generator=torch.Generator().manual_seed(1))
    results = []
    for dtype, function in (
        (torch.float32, barycentrics),
        (torch.float64, barycentrics),
        (torch.float64, barycentrics_torch),
    ):
        leaf = clip.to(dtype).requires_grad_(True)
        bary = function(leaf, faces, pixels, face, 48, 40)
        (grad,) = torch.autograd.grad((bary * cotangent).sum(), leaf)
        results.append((bary.detach(), grad))
    (single, _), (double, grad), (plain, plain_grad) = results
    assert torch.allclose(double, plain, atol=1e-9)
    assert torch.allclose(grad, plain_grad, rtol=1e-7, atol=1e-9 * float(plain_grad.abs().max()))
    assert torch.allclose(single[5:].double(), plain[5:], atol=1e-4)


def test_interpolate_equals_its_plain_twin_in_value_and_gradient() -> None:
    vertices, faces = sphere(2)
    raster = rasterize(vertices, faces, sphere_views(2).mvp(), 32, 32)
    generator = torch.Generator().manual_seed(0)
    for shape in ((vertices.shape[0], 4), (2, vertices.shape[0], 4)):
        attributes = torch.randn(shape, generator=generator, requires_grad=True)
        bary = raster.bary.clone().requires_grad_(True)
        moved = type(raster)(**{**vars(raster), "bary": bary})
        corner = faces[raster.face]
        if len(shape) == 3:
            corner = corner + (raster.view * vertices.shape[0])[:, None]
        fast = interpolate(attributes, moved)
        slow = weighted_rows_torch(attributes.reshape(-1, 4), corner, bary)
        cotangent = torch.randn(fast.shape, generator=generator)
        assert torch.allclose(fast, slow, atol=1e-6)
        pair = [
            torch.autograd.grad((x * cotangent).sum(), (attributes, bary)) for x in (fast, slow)
        ]
        for a, b in zip(*pair, strict=True):
            assert torch.allclose(a, b, atol=1e-4)


def test_gather_rows_is_indexing() -> None:
    table = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([1, 1, 6, 0, 1])
    assert torch.equal(gather_rows(table, index), table[index])
    assert torch.autograd.gradcheck(lambda t: gather_rows(t, index), (table,))


def test_gradient_of_an_attribute_equals_finite_differences() -> None:
    vertices, faces = sphere(1)
    vertices = vertices.double().requires_grad_(True)
    mvp = orbit(2, elevation_deg=25).mvp().double()
    raster = rasterize(vertices, faces, mvp, 12, 12)
    colour = torch.rand(vertices.shape[0], 2, dtype=torch.float64, requires_grad=True)

    def shade(positions: Tensor, attributes: Tensor) -> Tensor:
        clip = torch.nn.functional.pad(positions, (0, 1), value=1.0) @ mvp.transpose(1, 2)
        bary = barycentrics(clip, faces, raster.pixels, raster.face, 12, 12)
        return interpolate(attributes, type(raster)(**{**vars(raster), "bary": bary, "clip": clip}))

    expected = interpolate(colour, raster)
    assert torch.allclose(shade(vertices, colour), expected, atol=1e-12)
    assert torch.autograd.gradcheck(shade, (vertices, colour), atol=1e-5)


def test_scatter_image_backgrounds() -> None:
    vertices, faces = sphere(1)
    raster = rasterize(vertices, faces, orbit(2).mvp(), 10, 12)
    values = torch.rand(raster.pixels.shape[0], 3, requires_grad=True)
    hidden = raster.face_index < 0
    for background in (torch.rand(3), torch.rand(2, 3), torch.rand(2, 10, 12, 3)):
        background.requires_grad_(True)
        image = scatter_image(values, raster, background)
        assert torch.equal(image[~hidden], values)
        full = background if background.ndim != 2 else background[:, None, None]
        assert torch.equal(image[hidden], full.expand(2, 10, 12, 3)[hidden])
        grads = torch.autograd.grad(image.sum(), (values, background))
        assert (grads[0] == 1).all()
        assert grads[1].sum() == 3 * hidden.sum()


# Antialiasing


def rectangle(left: Tensor, top: Tensor, right: Tensor, bottom: Tensor) -> Tensor:
    zero = torch.zeros_like(left)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return torch.stack([torch.stack([x, y, zero]) for x, y in corners])


QUAD = torch.tensor([[0, 1, 2], [0, 2, 3]])


def coverage(vertices: Tensor, faces: Tensor, mvp: Tensor, size: int) -> Tensor:
    raster = rasterize(vertices, faces, mvp, size, size)
    return antialias(raster.mask, raster)


@pytest.mark.parametrize("side", range(4))
def test_coverage_is_linear_in_the_position_of_an_edge(side: int) -> None:
    for offset in torch.arange(0.03, 2.0, 0.11, dtype=torch.float64):
        bounds = torch.tensor([4.0, 4.0, 12.0, 12.0], dtype=torch.float64)
        bounds[side] += offset
        bounds.requires_grad_(True)
        mask = coverage(rectangle(*bounds), QUAD, flat_mvp(16, 16, torch.float64), 16)
        width, height = (bounds[2:] - bounds[:2]).tolist()
        assert mask.sum().item() == pytest.approx(width * height, abs=1e-9)
        (grad,) = torch.autograd.grad(mask.sum(), bounds)
        expected = -8.0 if side < 2 else 8.0
        assert float(grad[side]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("degrees", [0, 10, 30, 44, 46, 75, 90, 130])
def test_area_and_its_gradient_at_any_angle(degrees: float) -> None:
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]) @ turn.T
    half = torch.tensor(20.3, requires_grad=True)
    centre = torch.tensor([32.2, 31.7], requires_grad=True)
    vertices = torch.cat([square * half + centre, torch.zeros(4, 1)], dim=1)
    mask = coverage(vertices, QUAD, flat_mvp(64, 64), 64)[0, ..., 0]
    area = 4 * 20.3**2
    assert mask.sum().item() == pytest.approx(area, rel=2e-3)
    (grad,) = torch.autograd.grad(mask.sum(), half, retain_graph=True)
    assert float(grad) == pytest.approx(8 * 20.3, rel=0.06)
    # The first moment of the mask moves with the shape, as much as there is of it.
    at = torch.arange(64) + 0.5
    for axis, moment in enumerate(((mask * at[None]).sum(), (mask * at[:, None]).sum())):
        (grad,) = torch.autograd.grad(moment, centre, retain_graph=True)
        assert float(grad[axis]) == pytest.approx(area, rel=0.06)
        assert abs(float(grad[1 - axis])) < 0.06 * area


@pytest.mark.parametrize("subdivisions", [2, 3, 4, 5])
def test_silhouette_gradient_equals_finite_differences_at_any_tessellation(
    subdivisions: int,
) -> None:
    vertices, faces = sphere(subdivisions, radius=1.0)
    mvp, size = sphere_views(4).mvp(), 64

    def area(scale: Tensor) -> Tensor:
        return coverage(vertices * scale, faces, mvp, size).sum()

    scale = torch.tensor(0.7, requires_grad=True)
    (grad,) = torch.autograd.grad(area(scale), scale)
    step = 0.05  # many pixels' worth, so that the pixel grid averages out
    difference = (area(scale.detach() + step) - area(scale.detach() - step)) / (2 * step)
    assert float(grad) == pytest.approx(float(difference), rel=0.03)


def test_antialias_gradients_equal_finite_differences() -> None:
    vertices, faces = sphere(1)
    vertices = vertices.double().requires_grad_(True)
    image = torch.rand(1, 12, 12, 2, dtype=torch.float64, requires_grad=True)
    mvp = orbit(1, elevation_deg=33).mvp().double()

    def blend(positions: Tensor, colours: Tensor) -> Tensor:
        return antialias(colours, rasterize(positions, faces, mvp, 12, 12))

    assert torch.autograd.gradcheck(blend, (vertices, image), eps=1e-6, atol=1e-5)
    (grad,) = torch.autograd.grad(blend(vertices, image).square().sum(), vertices)
    assert (grad.abs().sum(-1) > 0).sum() > 8


def test_antialias_equals_the_slow_loop() -> None:
    cube = trimesh.creation.box((0.7, 0.5, 0.9))
    ball, ball_faces = sphere(2, radius=0.45)
    box = torch.tensor(cube.vertices, dtype=torch.float32) + torch.tensor([0.5, 0.1, -0.1])
    vertices = torch.cat([ball, box])
    faces = torch.cat([ball_faces, torch.tensor(np.array(cube.faces)) + ball.shape[0]])
    mvp = sphere_views(5).mvp(26 / 22)
    raster = rasterize(vertices, faces, mvp, 22, 26)
    image = torch.rand(5, 22, 26, 3, generator=torch.Generator().manual_seed(2))
    blended = antialias(image, raster)
    for view in range(5):
        clip, index = raster.clip[view].numpy(), raster.face_index[view].numpy()
        expected = antialias_loop(image[view].numpy(), clip, faces.numpy(), index)
        assert np.abs(blended[view].numpy() - expected).max() < 1e-3
        assert (
            np.abs(raster.depth[view].numpy() - depth_loop(clip, faces.numpy(), index)).max() < 1e-4
        )
        assert np.abs(expected - image[view].numpy()).max() > 0.1


def test_only_silhouettes_are_blended_and_colours_stay_in_range() -> None:
    vertices, faces = sphere(5)
    raster = rasterize(vertices, faces, sphere_views(4).mvp(), 64, 64)
    image = torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    blended = antialias(image, raster)
    inside = raster.face_index >= 0
    for view in range(4):
        mask = inside[view].numpy()
        border = ndimage.binary_dilation(mask) != ndimage.binary_erosion(mask)
        calm = torch.from_numpy(border == 0)
        assert torch.equal(blended[view][calm], image[view][calm])
    assert blended.min() > -1e-6
    assert blended.max() < 1 + 1e-6


def test_specks_below_a_pixel_keep_colours_in_range() -> None:
    generator = torch.Generator().manual_seed(5)
    centre = torch.rand(300, 1, 3, generator=generator) * torch.tensor([32.0, 32.0, 1.0])
    points = (centre + torch.rand(300, 3, 3, generator=generator) * 2.5).reshape(-1, 3)
    points[:, 2] = points[:, 2] / 2 - 0.5
    mask = coverage(points, torch.arange(900).view(-1, 3), flat_mvp(32, 32), 32)
    assert mask.min() > -1e-6
    assert mask.max() < 1 + 1e-6
    assert 0.05 < mask.mean() < 0.5


def test_a_near_surface_blends_with_a_far_one_and_hidden_edges_do_nothing() -> None:
    front = rectangle(*torch.tensor([4.0, 4.0, 8.3, 12.0]))
    back = rectangle(*torch.tensor([0.5, 0.5, 15.5, 15.5]))
    hidden = rectangle(*torch.tensor([5.0, 5.0, 7.2, 9.2]))
    points = torch.cat([front, back, hidden])
    clip_w = torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(4)
    homogeneous = clip_of_pixels(points, 16, 16, clip_w)[0]
    faces = torch.cat([QUAD, QUAD + 4, QUAD + 8])
    # A projection whose w is the world's z (and x and y are given times w).
    mvp = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1.0], [0, 0, 1, 0]]])
    world = torch.cat([homogeneous[:, :2], clip_w[:, None]], dim=1).requires_grad_(True)
    raster = rasterize(world, faces, mvp, 16, 16)
    part = torch.tensor([0.2, 1.0, 0.6])[raster.face // 2]
    image = scatter_image(part[:, None], raster, torch.zeros(1))
    blended = antialias(image, raster)[0, ..., 0]
    assert torch.allclose(image.unique(), torch.tensor([0.0, 0.2, 1.0]))
    assert blended[6, 8].item() == pytest.approx(0.3 * 0.2 + 0.7 * 1.0, abs=1e-5)
    assert torch.equal(blended[5:11, 5:8], image[0, 5:11, 5:8, 0])
    (grad,) = torch.autograd.grad(blended.square().sum(), world)
    assert (grad[8:] == 0).all()
    assert (grad[:4, 0].abs() > 0).sum() >= 2


def test_bad_input_is_named() -> None:
    vertices, faces = sphere(0)
    mvp = orbit(1).mvp()
    raster = rasterize(vertices, faces, mvp, 8, 8)
    with pytest.raises(ValueError, match=r"vertices: expected \[V, 3\]"):
        rasterize(vertices[:, :2], faces, mvp, 8, 8)
    with pytest.raises(ValueError, match="mvp"):
        rasterize(vertices, faces, mvp[0], 8, 8)
    with pytest.raises(ValueError, match="finite"):
        rasterize(vertices * math.nan, faces, mvp, 8, 8)
    with pytest.raises(ValueError, match="faces: expected indices"):
        rasterize(vertices, faces + 5, mvp, 8, 8)
    with pytest.raises(ValueError, match="faces: expected int64"):
        rasterize(vertices, faces.int(), mvp, 8, 8)
    with pytest.raises(ValueError, match="height, width"):
        rasterize(vertices, faces, mvp, 0, 8)
    with pytest.raises(ValueError, match="attributes"):
        interpolate(vertices[:-1], raster)
    with pytest.raises(ValueError, match="background"):
        scatter_image(interpolate(vertices, raster), raster, torch.zeros(4))
    with pytest.raises(ValueError, match="values"):
        scatter_image(vertices[:1], raster, torch.zeros(3))
    with pytest.raises(ValueError, match="image"):
        antialias(torch.zeros(1, 9, 8, 3), raster)


def test_a_camera_turned_aside_sees_the_front_to_its_side() -> None:
    """A box at +X, +Z seen from azimuth 90 degrees: its right vector is -X."""
    box = trimesh.creation.box((0.2, 0.2, 0.2))
    vertices = torch.tensor(box.vertices, dtype=torch.float32) + torch.tensor([0.6, 0, 0.4])
    quarter, zero, one = torch.tensor([math.pi / 2]), torch.zeros(1), torch.ones(1)
    camera = Cameras(quarter, zero, 3 * one, 0.7 * one)
    raster = rasterize(vertices, torch.tensor(np.array(box.faces)), camera.mvp(), 64, 64)
    # At azimuth 90 the right vector is -X, so +X lies to the left; +Z is up.
    assert (raster.col < 32).all()
    assert (raster.row < 32).all()
    assert raster.pixels.shape[0] > 20

"""How a mesh of the user's becomes the start of a run: its pose, its shape, its colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ...common.config.export import Axis
from ...common.config.fields import HashGridConfig
from ...common.config.mesh import Front
from ...common.errors import UserError
from ...common.fields.field import HashField
from ...common.scene.mesh import Mesh, sample_surface
from ..export.placement import Pose
from ..export.shape import describe_shape
from ..surface_tree import SurfaceTree
from ..tetgrid import TetGrid
from .data import UserMesh, welded
from .orient import oriented

RADIUS = 0.9  # of the farthest vertex, as the toybox's objects have it
BAND = 3.0  # cells within which distances are exact
ASKED = 1.5  # cells from a closed surface within which each point is asked for its side
SHEET = 0.6  # cells that a surface without an inside is thickened by, each way
PROBE = 0.5  # cells to either side of a face, where its inside is looked for
FIT_STEPS, FIT_POINTS, FIT_RATE = 300, 8192, 2e-2
DARKEST = 0.004  # the logit of a colour of 0 would be infinite

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """A mesh in the world.

    mesh: in the file's order, wound as in the file. outward: its surface with vertices at one place
    joined and every face turned outward. pose: back to the file. source: the mesh as it was read.
    """

    mesh: Mesh
    outward: Mesh
    pose: Pose
    source: UserMesh


def start_of(source: UserMesh, up: Axis | None = None, front: Front | None = None) -> Start:
    """Turn a mesh upright with its front along +X, and fit it into the sphere of RADIUS.

    up: the axis that points up in the file, None for the format's. front: the axis it looks along.
    Raises UserError for a front that points up or down.
    """
    pose = pose_of(up or source.up, front)
    used = source.vertices[np.unique(source.faces)]
    middle = 0.5 * (used.min(axis=0) + used.max(axis=0))
    scale = float(np.linalg.norm(used - middle, axis=1).max()) / RADIUS
    x, y, z = middle.tolist()
    pose = Pose(pose.axes, pose.signs, pose.up, scale, (x, y, z), source.metre)
    world = pose.from_file(torch.from_numpy(source.vertices))
    own = np.ascontiguousarray(source.faces)
    joined = welded(source.vertices)
    faces = oriented(world.double().numpy(), joined[own])
    solid = faces[_with_area(world.double().numpy(), faces)]
    return Start(
        Mesh(world, torch.from_numpy(own)),
        Mesh(world, torch.from_numpy(np.ascontiguousarray(solid))),
        pose,
        source,
    )


def pose_of(up: Axis, front: Front | None) -> Pose:
    """The pose without scale and offset of a file with these axes."""
    match up:
        case "y":
            front, top = front or "+z", np.array([0, 1, 0])
        case "z":
            front, top = front or "-y", np.array([0, 0, 1])
        case _:
            assert_never(up)
    ahead = np.zeros(3, dtype=np.int64)
    ahead["xyz".index(front[1])] = 1 if front[0] == "+" else -1
    if ahead @ top:
        raise UserError(f"--front {front} points along the axis that is up; give a side")
    world = np.stack([ahead, np.cross(top, ahead), top])  # rows: the world's axes in the file
    a, b, c = np.abs(world).argmax(axis=0).tolist()
    i, j, k = world.sum(axis=0).tolist()
    return Pose((a, b, c), (i, j, k), up)


def signed_distances(mesh: Mesh, grid: TetGrid) -> Tensor:
    """Signed distance in cells of a grid's vertices to any surface, `[(R+1)^3]`.

    mesh: wound outward; it may have holes, several parts that cut each other, and parts thinner
    than a cell. Inside is where the generalized winding number exceeds one half. Faces without an
    inside on either side (sheets, and what is thinner than the grid can hold) become SHEET cells
    thick each way. Exact within BAND cells of the surface.
    """
    side, cell = grid.resolution + 1, grid.cell_size
    points = grid.vertices().double().numpy()
    vertices, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    tree = SurfaceTree.of(vertices, faces)
    distance = _banded(tree, points, side, cell)
    # Through a hole, what lies inside and outside is one region: there each point is asked.
    asked = distance <= ASKED if describe_shape(mesh).closed else np.ones(len(points), np.bool_)
    inside = _inside(tree, points, asked, side)
    signed = np.where(inside, -distance, distance)
    thin = _sheets(tree, vertices, faces, cell)
    if thin.any():
        sheet = _banded(SurfaceTree.of(vertices, faces[thin]), points, side, cell) - SHEET
        signed = np.minimum(signed, sheet)
    return torch.from_numpy(signed.astype(np.float32))


def _banded(tree: SurfaceTree, points: Floats, side: int, cell: float) -> Floats:
    """Distances in cells: exact within BAND, from the band's edge beyond."""
    distance = tree.nearest(points, BAND * cell)[0] / cell
    near = np.isfinite(distance)
    if not near.any():
        return np.full(len(points), BAND)
    beyond = ndimage.distance_transform_edt(~near.reshape((side,) * 3))
    return np.where(near, distance, BAND - 1.0 + np.asarray(beyond).reshape(-1))


def _inside(
    tree: SurfaceTree, points: Floats, asked: NDArray[np.bool_], side: int
) -> NDArray[np.bool_]:
    """Which lattice points lie inside; those that aren't `asked` as one of their region is."""
    labels = np.empty((side,) * 3, np.int32)
    count = int(ndimage.label(~asked.reshape((side,) * 3), output=labels))  # type: ignore[call-overload]
    labels = labels.reshape(-1)  # 0 where each is asked
    inside = np.zeros(len(points), dtype=np.bool_)
    inside[asked] = tree.winding(points[asked]) > 0.5
    samples = np.unique(labels, return_index=True)[1]
    region = np.zeros(count + 1, dtype=np.bool_)
    region[labels[samples]] = tree.winding(points[samples]) > 0.5
    return np.where(asked, inside, region[labels])


def _sheets(
    tree: SurfaceTree, vertices: Floats, faces: NDArray[np.int64], cell: float
) -> NDArray[np.bool_]:
    """Which faces have no inside on either side, PROBE cells away."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    middles = corners.mean(axis=1)
    steps = PROBE * cell * normals
    return (tree.winding(middles - steps) < 0.5) & (tree.winding(middles + steps) < 0.5)


def color_field(start: Start, grid: HashGridConfig, hidden: int, seed: int) -> HashField:
    """A field of albedo logits that has the mesh's colours on its surface; grey where it has none.

    The points of each step lie up to two hundredths around the surface, which may move.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        field = HashField(grid, hidden, outputs=3)
    if not start.source.colored:
        with torch.no_grad():
            field.out.weight.mul_(0.01)
            field.out.bias.zero_()
        return field
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(field.parameters(), lr=FIT_RATE, betas=(0.9, 0.99), eps=1e-15)
    for step in range(FIT_STEPS):
        places, face = sample_surface(start.mesh.vertices, start.mesh.faces, FIT_POINTS, generator)
        weights = weights_at(start.mesh, places, face)
        true = torch.from_numpy(start.source.colors_at(face.numpy(), weights.double().numpy()))
        shift = torch.randn(places.shape, generator=generator) * 0.01
        target = torch.logit(true.clamp(DARKEST, 1.0 - DARKEST))
        loss = F.smooth_l1_loss(field(places + shift), target)
        for group in optimizer.param_groups:
            group["lr"] = FIT_RATE * (1.0 - 0.9 * step / FIT_STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field


def weights_at(mesh: Mesh, points: Tensor, face: Tensor) -> Tensor:
    """Barycentrics `[N, 3]` of points that lie on faces `[N]`."""
    a, b, c = mesh.vertices.double()[mesh.faces[face]].unbind(1)
    u, v, w = b - a, c - a, points.double() - a
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    wu, wv = (w * u).sum(1), (w * v).sum(1)
    below = (uu * vv - uv * uv).clamp_min(1e-300)
    second, third = (vv * wu - uv * wv) / below, (uu * wv - uv * wu) / below
    weights = torch.stack([1.0 - second - third, second, third], dim=1).clamp(0.0, 1.0)
    return weights / weights.sum(dim=1, keepdim=True)


def _with_area(vertices: Floats, faces: NDArray[np.int64]) -> NDArray[np.bool_]:
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-14

"""Reading the exported files back as a stranger would, and comparing them with the model."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...common.rasterize import Raster, interpolate, rasterize, scatter_image
from ...common.scene.cameras import Cameras, orbit, sphere_views
from ...common.scene.images import psnr
from ...common.scene.mesh import Mesh
from ...common.scene.shading import headlights, shade
from ..meshes.threemf import read_3mf
from .bake import CHUNK, AlbedoFn
from .placement import Pose
from .usdz import library

PLAIN_POSE = Pose()
LIKE = 12.0  # of 255: a lossy texture's mean difference from the one it was made of, at most
ROWS = 256  # of a picture that are compared at a time
BACKGROUND = 1.0  # white
VIEWS = 8
AMBIENT = 0.4  # share of light from everywhere in the turntable
SUPERSAMPLING = 2  # samples a pixel in each direction


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh from a file, in world axes.

    vertices: `[W, 3]`; faces: int64 `[F, 3]`; uv: `[W, 2]`, V bottom-up; normals: unit `[W, 3]`;
    texture: uint8 `[S, S, 3]`, sRGB, row 0 on top.
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor
    normals: Tensor
    texture: Tensor


def read_obj(path: Path, pose: Pose = PLAIN_POSE) -> TexturedMesh:
    """Load an OBJ or a GLB with its texture through trimesh, which shares no code with the writer.

    pose: how the file's axes came about. Raises ValueError if the file has no texture or no texture
    coordinates.
    """
    mesh = _loaded(path)
    image, uv = _image(mesh), getattr(mesh.visual, "uv", None)
    if image is None or uv is None:
        raise ValueError(f"{path}: expected a texture and texture coordinates, got neither or one")
    return TexturedMesh(
        pose.from_file(_floats(mesh.vertices)),
        torch.from_numpy(np.array(mesh.faces, dtype=np.int64)),
        _floats(uv),
        F.normalize(pose.from_vectors(_floats(mesh.vertex_normals)), dim=-1),
        torch.from_numpy(np.array(image.convert("RGB"))),
    )


def check_file(path: Path, pose: Pose, expected: Mesh, texture: NDArray[np.uint8]) -> None:
    """Read a file of any format through a library that shares no code with its writer.

    expected: the surface in world axes, its faces in the file's order; texture: what it was given.
    Raises OSError if a corner lies elsewhere, or the texture is another one.
    """
    corners, image = _read_usdz(path) if path.suffix == ".usdz" else _read_any(path)
    wanted = pose.points(expected.vertices)[expected.faces].double().numpy()
    size = float(np.abs(wanted).max())
    if corners.shape != wanted.shape or not np.allclose(corners, wanted, atol=2e-5 * size, rtol=0):
        raise OSError(f"{path.name} does not read back as the model that was written into it")
    if image is not None:
        found = np.asarray(image.convert("RGB"))
        if found.shape != texture.shape or mean_difference(found, texture) > LIKE:
            raise OSError(f"{path.name} does not read back with the texture that was given to it")


def mean_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The mean difference of two pictures of one shape, some rows at a time: large ones fit."""
    total = 0
    for top in range(0, len(one), ROWS):
        rows = one[top : top + ROWS].astype(np.int16) - other[top : top + ROWS]
        total += int(np.abs(rows).sum(dtype=np.int64))
    return total / max(one.size, 1)


def _read_any(path: Path) -> tuple[NDArray[np.float64], Any]:
    """The corners `[F, 3, 3]` of a file, and its texture if it has one."""
    if path.suffix == ".3mf":
        model = read_3mf(path)
        return model.vertices[model.faces], None
    mesh = _loaded(path)
    return np.asarray(mesh.vertices, dtype=np.float64)[np.asarray(mesh.faces)], _image(mesh)


def _read_usdz(path: Path) -> tuple[NDArray[np.float64], Any]:
    usd, geometry = library("Usd"), library("UsdGeom")
    stage = usd.Stage.Open(str(path))
    (mesh,) = [geometry.Mesh(prim) for prim in stage.Traverse() if prim.IsA(geometry.Mesh)]
    points = np.array(mesh.GetPointsAttr().Get(), dtype=np.float64)
    faces = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    with zipfile.ZipFile(path) as archive:
        pictures = [n for n in archive.namelist() if n.endswith((".png", ".jpg"))]
        pictures = [n for n in pictures if not Path(n).stem.endswith(("-finish", "-normal"))]
        with archive.open(pictures[0]) as file:
            image = Image.open(io.BytesIO(file.read()))
    return points[faces], image


def _loaded(path: Path) -> Any:
    """One mesh of a file through trimesh, its vertices and faces in the file's order."""
    import trimesh

    mesh = trimesh.load(path, process=False)
    if isinstance(mesh, trimesh.Scene):
        (mesh,) = mesh.geometry.values()
    if not isinstance(mesh, trimesh.Trimesh):
        raise ValueError(f"{path}: expected one mesh, got {type(mesh).__name__}")
    return mesh


def _image(mesh: Any) -> Any:
    material = getattr(mesh.visual, "material", None)
    return getattr(material, "image", None) or getattr(material, "baseColorTexture", None)


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear lookups `[P, C]` in [0, 1] in a uint8 texture `[H, W, C]`; borders are extended.

    uv: `[P, 2]`, V bottom-up; (0, 0) is the outer corner of the bottom left texel.
    """
    height, width, _ = texture.shape
    x = uv[:, 0] * width - 0.5
    y = (1.0 - uv[:, 1]) * height - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    columns = [(left.long() + i).clamp(0, width - 1) for i in (0, 1)]
    rows = [(top.long() + i).clamp(0, height - 1) for i in (0, 1)]
    upper, lower = (
        texture[row, columns[0]] * (1.0 - fx) + texture[row, columns[1]] * fx for row in rows
    )
    return (upper * (1.0 - fy) + lower * fy) / 255.0


def compare(
    read: TexturedMesh,
    mesh: Mesh,
    albedo_fn: AlbedoFn,
    views: int = VIEWS,
    resolution: int = 512,
) -> list[float]:
    """PSNR in dB of each view of the file's albedo against the model's, at most BEST_PSNR.

    mesh, albedo_fn: the model in memory; the field is evaluated at its pixels' surface points on
    the mesh's device. The views are spread over the whole sphere, antialiased as viewers show them.
    Only pixels that either image covers count: an empty background would flatter the result.
    """
    device = mesh.vertices.device
    vertices, faces = mesh.vertices.detach().cpu(), mesh.faces.cpu()

    def model_albedo(raster: Raster) -> Tensor:
        points = interpolate(vertices, raster)
        parts = [albedo_fn(part.to(device)).float().cpu() for part in points.split(CHUNK)]
        return torch.cat(parts).clamp(0.0, 1.0)

    values = []
    cameras = sphere_views(views)
    for index in range(views):
        camera = cameras[index : index + 1]
        file_image, file_mask = _render(
            read.vertices, read.faces, camera, resolution, partial(_file_albedo, read)
        )
        model_image, model_mask = _render(vertices, faces, camera, resolution, model_albedo)
        values.append(psnr(file_image, model_image, file_mask | model_mask))
    return values


def lit_view(
    read: TexturedMesh, camera: Cameras, resolution: int, ambient: float = AMBIENT
) -> Tensor:
    """One view `[resolution, resolution, 3]` of a textured mesh, lit from the camera."""
    lights = headlights(camera.position, ambient)

    def lit(raster: Raster) -> Tensor:
        normals = F.normalize(interpolate(read.normals, raster), dim=-1)
        points = interpolate(read.vertices, raster)
        return shade(_file_albedo(read, raster), normals, points, lights, raster.view)

    return _render(read.vertices, read.faces, camera, resolution, lit)[0]


def turntable(read: TexturedMesh, views: int = VIEWS, resolution: int = 256) -> NDArray[np.uint8]:
    """A contact sheet of a textured mesh seen all around, uint8 `[H, W, 3]`, front first.

    views: an even number, set in two rows. Lit from the camera.
    """
    if views < 2 or views % 2:
        raise ValueError(f"views: expected an even number of at least 2, got {views}")
    cameras = orbit(views)
    tiles = [lit_view(read, cameras[i : i + 1], resolution) for i in range(views)]
    half = views // 2
    sheet = torch.cat([torch.cat(tiles[:half], dim=1), torch.cat(tiles[half:], dim=1)], dim=0)
    return (sheet.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()


def _file_albedo(read: TexturedMesh, raster: Raster) -> Tensor:
    """The file's colours `[P, 3]` at the covered pixels."""
    return sample_texture(read.texture, interpolate(read.uv, raster))


@torch.no_grad()
def _render(
    vertices: Tensor,
    faces: Tensor,
    camera: Cameras,
    resolution: int,
    colours: Callable[[Raster], Tensor],
) -> tuple[Tensor, Tensor]:
    """One camera's antialiased image `[H, W, 3]`, and which pixels the mesh touches `[H, W]`."""
    fine = resolution * SUPERSAMPLING
    raster = rasterize(vertices, faces, camera.mvp(), fine, fine)
    values = colours(raster)
    image = scatter_image(values, raster, values.new_full((3,), BACKGROUND))
    small = F.avg_pool2d(image.permute(0, 3, 1, 2), SUPERSAMPLING)[0].permute(1, 2, 0)
    covered = F.max_pool2d((raster.face_index >= 0).float(), SUPERSAMPLING)[0] > 0.0
    return small, covered


def _floats(values: object) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))

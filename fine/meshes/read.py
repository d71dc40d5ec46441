"""Reading a mesh of the user's: any of six formats, and one clear line for whatever is wrong."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.config.export import Axis
from ...common.errors import UserError
from ..export.pictures import large_images
from .data import Material, UserMesh, check_indices, checked, welded
from .glb import lost_of_glb
from .images import MOST_SIDE
from .obj import read_obj_file
from .threemf import read_3mf

UP: dict[str, Axis] = {"obj": "y", "glb": "y", "ply": "y", "off": "y", "stl": "z", "3mf": "z"}
"""The formats that are read, and the axis each one points up with where nobody says otherwise."""
MOST_BYTES = 2**31


def read_mesh(path: Path) -> UserMesh:
    """The mesh in a file, checked. Raises UserError, in one line, for whatever is wrong with it."""
    kind = path.suffix.lower().removeprefix(".")
    name = str(path)
    try:
        if path.is_dir():
            raise UserError(f"{name} is a folder; give a mesh file ({_known()})")
        if not path.exists():
            raise UserError(f"no mesh file {name}; give a path to one ({_known()})")
        if not path.is_file():
            raise UserError(f"{name} is no regular file; give a mesh file ({_known()})")
        if kind not in UP:
            raise UserError(
                f"{name}: a mesh can be read from {_known()}; convert it to one of them"
            )
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{name} is empty; give a mesh with a surface")
        if size > MOST_BYTES:
            raise UserError(
                f"{name} is larger than {MOST_BYTES / 2**30:.0f} GiB; decimate it first"
            )
        mesh = {"obj": read_obj_file, "3mf": read_3mf}.get(kind, _read_others)(path)
    except OSError as error:
        raise UserError(f"{name} can't be read ({error.strerror or error})") from None
    return checked(mesh, name)


def _known() -> str:
    return ", ".join(UP).upper()


def _read_others(path: Path) -> UserMesh:
    """GLB, PLY, STL and OFF through trimesh, vertices and faces in the file's order."""
    import trimesh

    kind = path.suffix.lower().removeprefix(".")
    lost = lost_of_glb(path) if kind == "glb" else []
    if kind == "stl":
        _check_stl(path)
    try:
        # What is not finite is told below; NumPy needn't warn of it.
        with path.open("rb") as file, large_images(MOST_SIDE**2), np.errstate(all="ignore"):
            scene: Any = trimesh.load(file, file_type=kind, process=False)
            parts = _parts(scene)
            if not parts:
                raise UserError(f"{path} has no faces; give a mesh with a surface")
            mesh = _joined(parts, str(path), UP[kind], 1.0 if kind == "glb" else None, lost)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file ends a foreign reader in whatever way it likes
        raise UserError(
            f"{path} is damaged, or isn't {kind.upper()} ({type(error).__name__}); export it again"
        ) from None
    return _without_copies(mesh) if kind == "stl" else mesh


def _without_copies(mesh: UserMesh) -> UserMesh:
    """An STL, which has three vertices of its own for each face, with one at each place."""
    used, faces = np.unique(welded(mesh.vertices)[mesh.faces], return_inverse=True)
    return replace(mesh, vertices=mesh.vertices[used], faces=faces.reshape(-1, 3))


def _check_stl(path: Path) -> None:
    """Tell a binary STL that was cut off, by the number of triangles it promises."""
    with path.open("rb") as file:
        head = file.read(84)
    size = path.stat().st_size
    if head[:5].lower() == b"solid" or len(head) < 84:
        return
    promised = struct.unpack("<I", head[80:])[0]
    if 84 + 50 * promised > size:
        raise UserError(
            f"{path} is damaged: it promises {promised} triangles and ends before; export it again"
        )


def _parts(scene: Any) -> list[tuple[Any, NDArray[np.float64]]]:
    """The meshes of a scene with where each one stands."""
    import trimesh

    if isinstance(scene, trimesh.Trimesh):
        return [(scene, np.eye(4))]
    if not isinstance(scene, trimesh.Scene):  # points alone
        return []
    found = []
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        if isinstance(scene.geometry[name], trimesh.Trimesh):
            found.append((scene.geometry[name], np.asarray(matrix)))
    return found


def _joined(
    parts: list[tuple[Any, NDArray[np.float64]]],
    name: str,
    up: Axis,
    metre: float | None,
    lost: list[str],
) -> UserMesh:
    """Several meshes as one."""
    vertices, faces, places, colors, materials, of = [], [], [], [], [], []
    start = 0
    for mesh, matrix in parts:
        own = np.asarray(mesh.vertices, dtype=np.float64)
        corner = np.asarray(mesh.faces, dtype=np.int64)
        check_indices(corner, len(own), name)
        material, uv, tint = _looks(mesh)
        vertices.append(own @ matrix[:3, :3].T + matrix[:3, 3])
        faces.append(corner + start)
        if np.linalg.det(matrix[:3, :3]) < 0.0:
            faces[-1] = faces[-1][:, ::-1]
        places.append(None if uv is None else uv[corner])
        colors.append(tint)
        of.append(np.full(len(corner), len(materials), dtype=np.int64))
        materials.append(material)
        start += len(own)
    uv = None
    if any(place is not None for place in places):
        uv = np.concatenate(
            [
                np.full((len(f), 3, 2), np.nan, dtype=np.float32) if place is None else place
                for place, f in zip(places, faces, strict=True)
            ]
        )
    tinted = any(color is not None for color in colors)
    filled = [
        np.ones((len(v), 3), dtype=np.float32) if color is None else color
        for color, v in zip(colors, vertices, strict=True)
    ]
    return UserMesh(
        np.concatenate(vertices),
        np.concatenate(faces),
        up,
        uv=uv,
        materials=materials,
        material_of=np.concatenate(of),
        colors=np.concatenate(filled) if tinted else None,
        metre=metre,
        lost=lost,
    )


def _looks(
    mesh: Any,
) -> tuple[Material, NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """A trimesh's material, its texture coordinates and its vertices' colours."""
    visual = mesh.visual
    if visual.kind == "vertex":
        tint = np.asarray(visual.vertex_colors)[:, :3].astype(np.float32) / np.float32(255.0)
        return Material(), None, tint
    if visual.kind != "texture":
        return Material(), None, None
    uv = None if visual.uv is None else np.asarray(visual.uv, dtype=np.float32)[:, :2]
    material = visual.material
    image = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
    factor = getattr(material, "baseColorFactor", None)
    color = (1.0, 1.0, 1.0) if image is not None else (0.5, 0.5, 0.5)
    if factor is not None:
        values = np.asarray(factor, dtype=np.float64)[:3]
        r, g, b = (values / 255.0 if values.max() > 1.0 else values).tolist()
        color = (r, g, b)
    if image is None:
        return Material(color), uv, None
    if max(image.size) > MOST_SIDE:
        raise UserError(
            f"the mesh's texture is {image.size[0]} x {image.size[1]} pixels; at most {MOST_SIDE} "
            "a side can be read"
        )
    return Material(color, np.array(image.convert("RGB"))), uv, None

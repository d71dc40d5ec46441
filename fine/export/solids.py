"""Files without a texture: PLY with vertex colours, STL, and 3MF for printers."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...common.files import write_whole
from ...common.runs.folder import slug
from ...common.scene.mesh import Mesh, face_normals, vertex_normals
from .placement import Pose

_EARLIEST = (1980, 1, 1, 0, 0, 0)  # no clock in the files: equal models are equal bytes
_CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
_MATERIAL = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
_TYPES = """<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
 <Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
 <Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
</Types>
"""
_RELATIONS = """<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
 <Relationship Target="/3D/3dmodel.model" Id="model"
  Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>
</Relationships>
"""


@dataclass(frozen=True)
class Solid:
    """A welded surface with a colour a vertex.

    mesh: world axes, on the CPU. colors: uint8 `[V, 3]`, sRGB.
    """

    mesh: Mesh
    colors: Tensor


def write_ply(folder: Path, name: str, solid: Solid, pose: Pose) -> Path:
    """Write NAME.ply, binary: positions, normals, colours as `red green blue`, faces."""
    path = folder / f"{slug(name)}.ply"
    mesh = solid.mesh
    row = np.dtype([("place", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 3)])
    vertices = np.empty(len(mesh.vertices), dtype=row)
    vertices["place"] = pose.points(mesh.vertices).numpy()
    vertices["normal"] = pose.vectors(vertex_normals(mesh.vertices, mesh.faces)).numpy()
    vertices["color"] = solid.colors.numpy()
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces.numpy()
    places = "".join(f"property float {axis}\n" for axis in ("x", "y", "z", "nx", "ny", "nz"))
    colors = "".join(f"property uchar {channel}\n" for channel in ("red", "green", "blue"))
    head = (
        f"ply\nformat binary_little_endian 1.0\ncomment maquette\n"
        f"element vertex {len(vertices)}\n{places}{colors}"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    write_whole(path, head.encode("ascii") + vertices.tobytes() + faces.tobytes())
    return path


def write_stl(folder: Path, name: str, solid: Solid, pose: Pose) -> Path:
    """Write NAME.stl, binary. It names no unit; slicers take its numbers for millimetres."""
    path = folder / f"{slug(name)}.stl"
    mesh = solid.mesh
    row = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
    rows = np.zeros(len(mesh.faces), dtype=row)
    placed = pose.points(mesh.vertices)
    rows["normal"] = face_normals(placed, mesh.faces).numpy()
    rows["corners"] = placed[mesh.faces].numpy()
    head = b"maquette".ljust(80, b" ") + np.uint32(len(rows)).tobytes()
    write_whole(path, head + rows.tobytes())
    return path


def write_3mf(folder: Path, name: str, solid: Solid, pose: Pose) -> Path:
    """Write NAME.3mf in millimetres, with a colour at each corner (a `colorgroup`)."""
    path = folder / f"{slug(name)}.3mf"
    mesh = solid.mesh
    palette, color = np.unique(solid.colors.numpy(), axis=0, return_inverse=True)
    color = color.reshape(-1)
    faces = mesh.faces.numpy()
    places = pose.points(mesh.vertices).double().numpy() + 0.0
    corners = np.concatenate([faces, color[faces]], axis=1)
    text = "".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<model unit="millimeter" xml:lang="en-US" xmlns="{_CORE}" xmlns:m="{_MATERIAL}">\n'
            f'<metadata name="Title">{slug(name)}</metadata>\n'
            '<metadata name="Application">maquette</metadata>\n<resources>\n'
            '<m:colorgroup id="1">\n',
            _lines('<m:color color="#%02X%02X%02X"/>\n', palette),
            f'</m:colorgroup>\n<object id="2" name="{slug(name)}" type="model" pid="1" pindex="0">'
            "\n<mesh>\n<vertices>\n",
            _lines('<vertex x="%.5f" y="%.5f" z="%.5f"/>\n', places),
            "</vertices>\n<triangles>\n",
            _lines(
                '<triangle v1="%d" v2="%d" v3="%d" pid="1" p1="%d" p2="%d" p3="%d"/>\n', corners
            ),
            "</triangles>\n</mesh>\n</object>\n</resources>\n"
            '<build><item objectid="2"/></build>\n</model>\n',
        ]
    )
    parts = {
        "[Content_Types].xml": _TYPES,
        "_rels/.rels": _RELATIONS,
        "3D/3dmodel.model": text,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for inner, content in parts.items():
            entry = zipfile.ZipInfo(inner, _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    write_whole(path, buffer.getvalue())
    return path


def _lines(form: str, rows: NDArray) -> str:
    return (form * len(rows)) % tuple(rows.reshape(-1).tolist())

"""Files that open anywhere: OBJ + MTL + PNG, and GLB, with Y up and the front towards +Z.

The world has Z up and fronts along +X; the files' axes are its axes one place on, (x, y, z)_file =
(y, z, x)_world, which is a rotation, so nothing is mirrored. Every file is written whole or not at
all, and what it refers to is written before it.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...common.files import write_whole
from ...common.runs.folder import slug
from .unwrap import Unwrapped

GLB_MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_INT = 5126, 5125
VERTEX_BUFFER, INDEX_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP, CLAMP = 9729, 9987, 33071


@dataclass(frozen=True)
class ObjFiles:
    """The three files of an OBJ model."""

    obj: Path
    mtl: Path
    texture: Path


def to_file_axes(vectors: Tensor) -> Tensor:
    """World vectors `[..., 3]` (Z up, front +X) in the axes of files (Y up, front +Z)."""
    return vectors[..., [1, 2, 0]]


def to_world_axes(vectors: Tensor) -> Tensor:
    """The inverse of `to_file_axes`."""
    return vectors[..., [2, 0, 1]]


def write_obj(folder: Path, name: str, unwrapped: Unwrapped, png: bytes) -> ObjFiles:
    """Write NAME.obj, NAME.mtl and NAME.png into `folder`, which must exist.

    name: any text; its `common.runs.slug` (ASCII, no spaces) names the files and the material.
    png: the texture as `common.images.png_bytes` makes it. Positions stay welded along seams (`v`
    and `vn` are the source mesh's, `vt` the atlas'), so that a modeller sees one closed surface.
    """
    name = slug(name)
    files = ObjFiles(folder / f"{name}.obj", folder / f"{name}.mtl", folder / f"{name}.png")
    write_whole(files.texture, png)
    write_whole(files.mtl, _mtl_text(name))
    write_whole(files.obj, _obj_text(name, unwrapped))
    return files


def write_glb(folder: Path, name: str, unwrapped: Unwrapped, png: bytes) -> Path:
    """Write NAME.glb (glTF 2.0) into `folder`, with the texture inside; arguments as `write_obj`.

    The material is matt and no metal, written out, since glTF's own default is metal.
    """
    name = slug(name)
    path = folder / f"{name}.glb"
    write_whole(path, _glb_bytes(name, unwrapped, png))
    return path


def _mtl_text(name: str) -> str:
    """The material: the texture alone, no shine. No normal map: programs disagree on its name."""
    return f"newmtl {name}\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nNs 0\nd 1\nillum 2\nmap_Kd {name}.png\n"


def _obj_text(name: str, unwrapped: Unwrapped) -> str:
    mesh = unwrapped.welded()
    weld = unwrapped.welded_vertex()
    normals = mesh.vertices.new_empty(mesh.vertices.shape)
    normals[weld] = unwrapped.normals()
    corner = weld[unwrapped.faces]
    triples = torch.stack([corner, unwrapped.faces, corner], dim=-1) + 1  # [F, 3, v/vt/vn]
    return "".join(
        [
            f"mtllib {name}.mtl\no {name}\n",
            _lines("v %.6f %.6f %.6f\n", to_file_axes(mesh.vertices)),
            _lines("vt %.6f %.6f\n", unwrapped.uv),
            _lines("vn %.4f %.4f %.4f\n", to_file_axes(normals)),
            f"usemtl {name}\ns 1\n",
            _lines("f %d/%d/%d %d/%d/%d %d/%d/%d\n", triples),
        ]
    )


def _lines(form: str, rows: Tensor) -> str:
    """One formatted line a row. Adding 0 turns -0.0 into 0.0."""
    return (form * rows.shape[0]) % tuple((rows + 0).reshape(-1).tolist())


def _glb_bytes(name: str, unwrapped: Unwrapped, png: bytes) -> bytes:
    positions = to_file_axes(unwrapped.vertices).contiguous().numpy()
    normals = to_file_axes(unwrapped.normals()).contiguous().numpy()
    # glTF's texture origin is the top left, V runs down.
    uv = np.stack([unwrapped.uv[:, 0].numpy(), 1.0 - unwrapped.uv[:, 1].numpy()], axis=1)
    indices = unwrapped.faces.reshape(-1).numpy().astype("<u4")
    blocks = [
        positions.astype("<f4").tobytes(),
        normals.astype("<f4").tobytes(),
        uv.astype("<f4").tobytes(),
        indices.tobytes(),
        png,
    ]
    padded = [block + b"\0" * (-len(block) % 4) for block in blocks]
    document = _gltf(name, positions, indices.size, [len(block) for block in blocks], padded)
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary = b"".join(padded)
    length = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        [
            struct.pack("<III", GLB_MAGIC, 2, length),
            struct.pack("<II", len(text), JSON_CHUNK) + text,
            struct.pack("<II", len(binary), BINARY_CHUNK) + binary,
        ]
    )


def _gltf(
    name: str,
    positions: NDArray[np.float32],
    index_count: int,
    lengths: list[int],
    padded: list[bytes],
) -> dict[str, Any]:
    """The JSON part: positions, normals, uv, indices and the image are buffer views 0 to 4."""
    starts = np.cumsum([0, *(len(block) for block in padded)]).tolist()
    views: list[dict[str, Any]] = [
        {"buffer": 0, "byteOffset": start, "byteLength": length}
        for start, length in zip(starts, lengths, strict=False)
    ]
    for view, target in zip(views, [VERTEX_BUFFER] * 3 + [INDEX_BUFFER], strict=False):
        view["target"] = target
    count = positions.shape[0]
    bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    accessor = {"componentType": FLOAT, "count": count}
    return {
        "asset": {"version": "2.0", "generator": "maquette"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [
            {
                "name": name,
                "primitives": [
                    {
                        "attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2},
                        "indices": 3,
                        "material": 0,
                    }
                ],
            }
        ],
        "materials": [
            {
                "name": name,
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": 0.0,
                    "roughnessFactor": 1.0,
                },
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP, "wrapS": CLAMP, "wrapT": CLAMP}
        ],
        "images": [{"name": name, "bufferView": 4, "mimeType": "image/png"}],
        "accessors": [
            {"bufferView": 0, "type": "VEC3", **accessor, **bounds},
            {"bufferView": 1, "type": "VEC3", **accessor},
            {"bufferView": 2, "type": "VEC2", **accessor},
            {
                "bufferView": 3,
                "type": "SCALAR",
                "componentType": UNSIGNED_INT,
                "count": index_count,
            },
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": starts[-1]}],
    }

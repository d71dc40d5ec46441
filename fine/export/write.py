"""Files that open anywhere: OBJ with MTL and texture, and GLB.

Unless a `Pose` says otherwise, they have Y up and the front towards +Z: the world has Z up and
fronts along +X, and the files' axes are its axes one place on, (x, y, z)_file = (y, z, x)_world,
which is a rotation, so nothing is mirrored. Every file is written whole or not at all, and what it
refers to is written before it.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...common.files import write_whole
from ...common.runs.folder import slug
from .pictures import mime_type
from .placement import Pose
from .unwrap import Unwrapped

GLB_MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_INT = 5126, 5125
VERTEX_BUFFER, INDEX_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP, CLAMP = 9729, 9987, 33071
SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
PLAIN_POSE = Pose()


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


def write_obj(
    folder: Path,
    name: str,
    unwrapped: Unwrapped,
    image: bytes,
    pose: Pose = PLAIN_POSE,
    texture: Path | None = None,
    finish: str = "",
) -> ObjFiles:
    """Write NAME.obj, NAME.mtl and the texture into `folder`, which must exist.

    name: any text; its `common.runs.slug` (ASCII, no spaces) names the files and the material.
    image: the texture as the bytes of an image file. texture: one that is already there, which is
    named in place of writing `image`. finish: more lines of the material. Positions stay welded
    along seams and hard edges (`v` are the source mesh's, `vt` the atlas', `vn` those between hard
    edges), so that a modeller sees one
    closed surface.
    """
    name = slug(name)
    if texture is None:
        texture = folder / f"{name}.{SUFFIXES[mime_type(image)]}"
        write_whole(texture, image)
    files = ObjFiles(folder / f"{name}.obj", folder / f"{name}.mtl", texture)
    write_whole(files.mtl, _mtl_text(name, texture.name) + finish)
    write_whole(files.obj, _obj_text(name, unwrapped, pose))
    return files


def write_glb(
    folder: Path,
    name: str,
    unwrapped: Unwrapped,
    image: bytes,
    pose: Pose = PLAIN_POSE,
    normal_image: bytes | None = None,
    tangents: Tensor | None = None,
    finish_image: bytes | None = None,
) -> Path:
    """Write NAME.glb (glTF 2.0) into `folder`, with the texture inside; arguments as `write_obj`.

    image: PNG or JPEG, which every reader takes. normal_image: a tangent-space normal map, green
    up; tangents: world, `[W, 4]`, as it was baked with. finish_image: roughness in green, metallic
    in blue. Without it the material is matt and no metal, written out, since glTF's own default is
    metal.
    """
    name = slug(name)
    path = folder / f"{name}.glb"
    maps = {"normal": normal_image, "finish": finish_image}
    write_whole(path, _glb_bytes(name, unwrapped, image, pose, maps, tangents))
    return path


def _mtl_text(name: str, texture: str) -> str:
    """The material: the texture alone, no shine. No normal map: programs disagree on its name."""
    return f"newmtl {name}\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nNs 0\nd 1\nillum 2\nmap_Kd {texture}\n"


def _obj_text(name: str, unwrapped: Unwrapped, pose: Pose) -> str:
    mesh = unwrapped.welded()
    weld = unwrapped.welded_vertex()
    normals = unwrapped.fan_normals()
    corner, fan = weld[unwrapped.faces], unwrapped.fans()[unwrapped.faces]
    triples = torch.stack([corner, unwrapped.faces, fan], dim=-1) + 1  # [F, 3, v/vt/vn]
    positions = pose.points(mesh.vertices)
    return "".join(
        [
            f"mtllib {name}.mtl\no {name}\n",
            _lines(f"v {' '.join([_digits(positions)] * 3)}\n", positions),
            _lines("vt %.6f %.6f\n", unwrapped.uv),
            _lines("vn %.4f %.4f %.4f\n", pose.vectors(normals)),
            f"usemtl {name}\ns 1\n",
            _lines("f %d/%d/%d %d/%d/%d %d/%d/%d\n", triples),
        ]
    )


def _digits(positions: Tensor) -> str:
    """How coordinates are written: six decimals, or seven digits where the model is of a size that
    six decimals would round, or fill with digits that float32 doesn't have."""
    size = float(positions.abs().max()) if positions.numel() else 1.0
    return "%.6f" if 0.1 <= size <= 10.0 else "%.7g"


def _lines(form: str, rows: Tensor) -> str:
    """One formatted line a row. Adding 0 turns -0.0 into 0.0."""
    return (form * rows.shape[0]) % tuple((rows + 0).reshape(-1).tolist())


@dataclass
class _Buffer:
    """The binary part of a GLB and the views into it, in the order they were added."""

    views: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    length: int = 0

    def add(self, data: bytes, **more: int) -> int:
        """The index of the view of `data`, which begins at a multiple of four bytes."""
        view = {"buffer": 0, "byteOffset": self.length, "byteLength": len(data), **more}
        self.views.append(view)
        self.blocks.append(data + b"\0" * (-len(data) % 4))
        self.length += len(self.blocks[-1])
        return len(self.views) - 1


def _glb_bytes(
    name: str,
    unwrapped: Unwrapped,
    image: bytes,
    pose: Pose,
    maps: dict[str, bytes | None],
    tangents: Tensor | None,
) -> bytes:
    positions = pose.points(unwrapped.vertices).contiguous().numpy().astype("<f4")
    attributes = {"POSITION": positions, "NORMAL": _floats(pose.vectors(unwrapped.normals()))}
    # glTF's texture origin is the top left, V runs down.
    uv = np.stack([unwrapped.uv[:, 0].numpy(), 1.0 - unwrapped.uv[:, 1].numpy()], axis=1)
    attributes["TEXCOORD_0"] = uv.astype("<f4")
    if tangents is not None:
        turned = torch.cat([pose.vectors(tangents[:, :3]), tangents[:, 3:]], dim=1)
        attributes["TANGENT"] = _floats(turned)
    buffer, accessors, places = _Buffer(), [], {}
    for semantic, values in attributes.items():
        view = buffer.add(values.tobytes(), target=VERTEX_BUFFER)
        places[semantic] = len(accessors)
        kind = f"VEC{values.shape[1]}"
        accessors.append(
            {"bufferView": view, "type": kind, "componentType": FLOAT, "count": len(values)}
        )
    low, high = positions.min(axis=0).tolist(), positions.max(axis=0).tolist()
    accessors[0] |= {"min": low, "max": high}
    indices = unwrapped.faces.reshape(-1).numpy().astype("<u4")
    view = buffer.add(indices.tobytes(), target=INDEX_BUFFER)
    accessors.append(
        {
            "bufferView": view,
            "type": "SCALAR",
            "componentType": UNSIGNED_INT,
            "count": indices.size,
        }
    )
    images = {name: image} | {f"{name}-{what}": data for what, data in maps.items() if data}
    pictures = [
        {"name": label, "bufferView": buffer.add(data), "mimeType": mime_type(data)}
        for label, data in images.items()
    ]
    material = _glb_material(name, list(images))
    primitive = {"attributes": places, "indices": len(accessors) - 1, "material": 0}
    document = {
        "asset": {"version": "2.0", "generator": "maquette"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"name": name, "primitives": [primitive]}],
        "materials": [material],
        "textures": [{"source": index, "sampler": 0} for index in range(len(images))],
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP, "wrapS": CLAMP, "wrapT": CLAMP}
        ],
        "images": pictures,
        "accessors": accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": buffer.length}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary = b"".join(buffer.blocks)
    length = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        [
            struct.pack("<III", GLB_MAGIC, 2, length),
            struct.pack("<II", len(text), JSON_CHUNK) + text,
            struct.pack("<II", len(binary), BINARY_CHUNK) + binary,
        ]
    )


def _glb_material(name: str, images: list[str]) -> dict[str, Any]:
    """The material of images by their names, whose first one is the albedo."""
    index = {label.removeprefix(f"{name}-"): place for place, label in enumerate(images)}
    surface: dict[str, Any] = {
        "baseColorTexture": {"index": 0},
        "metallicFactor": 1.0 if "finish" in index else 0.0,
        "roughnessFactor": 1.0,
    }
    if "finish" in index:
        surface["metallicRoughnessTexture"] = {"index": index["finish"]}
    material: dict[str, Any] = {"name": name, "pbrMetallicRoughness": surface}
    if "normal" in index:
        material["normalTexture"] = {"index": index["normal"]}
    return material


def _floats(values: Tensor) -> NDArray[np.float32]:
    return values.contiguous().numpy().astype("<f4")

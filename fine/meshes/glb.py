"""What of a GLB is not kept, and whether its pictures can be."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

from ...common.errors import UserError
from .images import check_image

JSON_CHUNK = 0x4E4F534A


def lost_of_glb(path: Path) -> list[str]:
    """What of a GLB isn't kept: rigs, animations, morph targets, pictures in other files.

    Raises UserError if it is damaged, or a picture that its surface shows can't be read: the reader
    of the rest would leave that out without a word.
    """
    data = path.read_bytes()
    try:
        magic, _, length, count, kind = struct.unpack("<4sIIII", data[:20])
        if magic != b"glTF" or kind != JSON_CHUNK or length > len(data):
            raise ValueError("no GLB")
        tree = json.loads(data[20 : 20 + count])
        return _moving(tree) + _lost_pictures(tree, data[28 + count :], path)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error):
        raise UserError(f"{path} is damaged, or isn't GLB; export it again") from None


def _moving(tree: dict[str, Any]) -> list[str]:
    found = [
        word
        for key, word in (("skins", "its rig"), ("animations", "its animations"))
        if tree.get(key)
    ]
    meshes = tree.get("meshes", [])
    if any(p.get("targets") for m in meshes for p in m.get("primitives", [])):
        found.append("its morph targets")
    return found


def _lost_pictures(tree: dict[str, Any], binary: bytes, path: Path) -> list[str]:
    """Pictures of colours that aren't in the file; those that are in it are looked at."""
    lost = []
    for index in sorted(_pictures(tree)):
        picture = tree["images"][index]
        uri = str(picture.get("uri", ""))
        if picture.get("mimeType") == "image/ktx2":
            lost.append("its KTX2 texture")
        elif "bufferView" in picture:
            view = tree["bufferViews"][picture["bufferView"]]
            start = view.get("byteOffset", 0)
            check_image(binary[start : start + view["byteLength"]], f"the texture in {path}")
        elif uri.startswith("data:"):
            check_image(base64.b64decode(uri.partition(",")[2]), f"the texture in {path}")
        else:
            lost.append(f"its texture {uri}, which lies in another file")
    return lost


def _pictures(tree: dict[str, Any]) -> set[int]:
    """The images that base colours are taken from."""
    found = set()
    for material in tree.get("materials", []):
        named = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
        if named is None:
            continue
        texture = tree["textures"][named["index"]]
        extended = [value.get("source") for value in texture.get("extensions", {}).values()]
        sources = [texture.get("source"), *extended]
        found |= {source for source in sources if source is not None}
    return found

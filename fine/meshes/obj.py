"""OBJ files with their MTL, read in the file's own order."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...common.errors import UserError
from .data import Material, UserMesh
from .images import read_image

_OPTION = re.compile(r"^(on|off|[-+]?[\d.]+(e[-+]?\d+)?)$", re.I)  # what follows such as `-s`


@dataclass
class _Read:
    """What has been read so far."""

    points: list[list[float]] = field(default_factory=list)
    colors: list[list[float]] = field(default_factory=list)
    places: list[list[float]] = field(default_factory=list)
    corners: list[tuple[int, int]] = field(default_factory=list)  # three of each triangle
    material_of: list[int] = field(default_factory=list)
    materials: dict[str, int] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)


def read_obj_file(path: Path) -> UserMesh:
    """A mesh of an OBJ file; polygons become fans. UserError for what can't be read."""
    read = _Read()
    current = -1
    with path.open("r", encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            try:
                current = _line(read, words, line, current)
            except (ValueError, IndexError):
                raise UserError(
                    f"{path.name} is damaged at line {number}: {line.strip()[:60]!r}; "
                    "export it again"
                ) from None
    corners = np.array(read.corners, dtype=np.int64).reshape(-1, 3, 2)
    vertices = np.array(read.points, dtype=np.float64).reshape(-1, 3)
    uv = None
    if read.places and len(corners):
        if corners[..., 1].max() >= len(read.places):
            raise UserError(
                f"{path.name} is damaged: a face names a texture point beyond the last; "
                "export it again"
            )
        named = corners[..., 1] >= 0
        uv = np.full((*named.shape, 2), np.nan, dtype=np.float32)
        uv[named] = np.array(read.places, dtype=np.float32)[corners[..., 1][named]]
    known, lost = _materials(path, read)
    colors = None
    if len(read.colors) == len(read.points) > 0:
        colors = np.array(read.colors, dtype=np.float32).clip(0.0, 1.0)
    return UserMesh(
        vertices,
        np.ascontiguousarray(corners[..., 0]),
        "y",
        uv=uv,
        materials=known,
        material_of=np.array(read.material_of, dtype=np.int64) + 1,
        colors=colors,
        lost=lost,
    )


def _line(read: _Read, words: list[str], line: str, current: int) -> int:
    """Take one line in; returns the index of the material that holds from then on."""
    match words[0]:
        case "v":
            read.points.append([float(x) for x in words[1:4]])
            if len(read.points[-1]) != 3:
                raise ValueError
            if len(words) >= 7:
                read.colors.append([float(x) for x in words[4:7]])
        case "vt":
            read.places.append([float(words[1]), float(words[2]) if len(words) > 2 else 0.0])
        case "f":
            corners = [_corner(word, read) for word in words[1:]]
            # Some programs write faces of two corners, which are lines: there is nothing to fill.
            for i in range(1, len(corners) - 1):
                read.corners += [corners[0], corners[i], corners[i + 1]]
                read.material_of.append(current)
        case "usemtl":
            name = line.split(None, 1)[1].strip()
            return read.materials.setdefault(name, len(read.materials))
        case "mtllib":
            read.libraries.append(line.split(None, 1)[1].strip())
        case _:
            pass
    return current


def _corner(word: str, read: _Read) -> tuple[int, int]:
    """A face's corner `v`, `v/vt`, `v//vn` or `v/vt/vn`: its vertex and its texture point, or -1.

    Numbers count from 1, or back from the last one where they are negative.
    """
    parts = word.split("/")
    vertex = int(parts[0])
    vertex = vertex - 1 if vertex > 0 else len(read.points) + vertex
    place = int(parts[1]) if len(parts) > 1 and parts[1] else 0
    place = place - 1 if place > 0 else len(read.places) + place if place < 0 else -1
    if vertex < 0:
        raise ValueError
    return vertex, place


def _materials(path: Path, read: _Read) -> tuple[list[Material], list[str]]:
    """The materials in the order of `usemtl`, after the plain one for faces without any; and what
    of them is missing, in words."""
    found: dict[str, Material] = {}
    lost = []
    if read.materials:
        for name in dict.fromkeys(read.libraries):
            library = inside(path, name, "material file")
            if library.is_file():
                found |= _mtl(library)
            else:
                lost.append(f"its materials: there is no file {library.name} beside it")
    return [Material(), *(found.get(name, Material()) for name in read.materials)], lost


def _mtl(path: Path) -> dict[str, Material]:
    found: dict[str, Material] = {}
    name, color, texture = None, (0.5, 0.5, 0.5), None

    def put() -> None:
        if name is not None:
            found[name] = Material((1.0, 1.0, 1.0) if texture is not None else color, texture)

    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            match words[0].lower():
                case "newmtl":
                    put()
                    name, color, texture = line.split(None, 1)[1].strip(), (0.5, 0.5, 0.5), None
                case "kd":
                    r, g, b = (min(max(float(x), 0.0), 1.0) for x in words[1:4])
                    color = (r, g, b)
                case "map_kd":
                    place = inside(path, _last_argument(line), "texture")
                    texture = read_image(place, f"the texture that {path.name} names")
                case _:
                    pass
        except (ValueError, IndexError):
            raise UserError(
                f"{path.name} is damaged at line {number}: {line.strip()[:60]!r}; mend it"
            ) from None
    put()
    return found


def _last_argument(line: str) -> str:
    """The file of a `map_` line, after options such as `-s 1 1 1`; names may hold spaces."""
    words = line.split(None, 1)[1].split()
    while len(words) > 1 and words[0].startswith("-"):
        words.pop(0)
        while len(words) > 1 and _OPTION.match(words[0]):
            words.pop(0)
    return " ".join(words)


def inside(path: Path, name: str, what: str) -> Path:
    """The file that `path` names, in its own folder or below; UserError if it lies elsewhere."""
    folder = os.path.realpath(path.parent)
    place = os.path.realpath(os.path.join(folder, name.strip('"').replace("\\", "/")))
    if os.path.commonpath([folder, place]) != folder:
        raise UserError(
            f"{path.name} names a {what} outside of its folder ({name}); put it beside the model"
        )
    return Path(place)

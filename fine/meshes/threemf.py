"""3MF files: a zip archive with the model as XML."""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ...common.errors import UserError
from .data import UserMesh

MOST_BYTES = 2**31  # of the model once unpacked
MOST_GROWTH = 200  # times its packed size, from a hundred megabytes on
UNITS = {
    "micron": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "inch": 0.0254,
    "foot": 0.3048,
    "meter": 1.0,
}
DEEPEST = 16  # objects within objects


def read_3mf(path: Path) -> UserMesh:
    """The meshes that a 3MF file builds, as one. UserError for what can't be read, or is a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = ElementTree.fromstring(_model_text(archive, path.name))
    except (zipfile.BadZipFile, ElementTree.ParseError, EOFError, NotImplementedError) as error:
        raise UserError(f"{path.name} is damaged ({error}); export it again") from None
    try:
        return _mesh(root)
    except (KeyError, ValueError, IndexError, TypeError):
        raise UserError(f"{path.name} is damaged: it isn't a whole 3MF model") from None


def _model_text(archive: zipfile.ZipFile, name: str) -> bytes:
    """The text of the model, unpacked only as far as is reasonable."""
    models = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".model")]
    if not models:
        raise UserError(f"{name} holds no 3D model; give a 3MF file")
    entry = min(models, key=lambda e: (e.filename.count("/"), e.filename))
    limit = min(MOST_BYTES, max(MOST_GROWTH * entry.compress_size, 100 * 2**20))
    with archive.open(entry) as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        raise UserError(
            f"{name} grows to more than {limit / 2**20:.0f} MiB unpacked; it is "
            "damaged, or made to do harm"
        )
    if b"<!DOCTYPE" in text[:4096] or b"<!ENTITY" in text:
        raise UserError(f"{name} defines XML entities, which no 3MF file has; it is not read")
    return text


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _mesh(root: ElementTree.Element) -> UserMesh:
    objects = {e.get("id"): e for e in root.iter() if _local(e.tag) == "object"}
    groups = {
        e.get("id"): np.array([_color(c) for c in e], dtype=np.float32).reshape(-1, 3)
        for e in root.iter()
        if _local(e.tag) in ("colorgroup", "basematerials")
    }
    parts: list[tuple[NDArray, NDArray, NDArray | None]] = []
    for item in (e for e in root.iter() if _local(e.tag) == "item"):
        _collect(objects, groups, item, np.eye(4), parts, 0)
    if not parts:
        return UserMesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64), "z")
    starts = np.cumsum([0, *(len(p[0]) for p in parts)])
    colors = None
    if all(p[2] is not None for p in parts):
        colors = np.concatenate([p[2] for p in parts if p[2] is not None])
    return UserMesh(
        np.concatenate([p[0] for p in parts]),
        np.concatenate([p[1] + start for p, start in zip(parts, starts, strict=False)]),
        "z",
        colors=colors,
        metre=UNITS[root.get("unit", "millimeter")],
    )


def _collect(objects, groups, use, above, parts, depth: int) -> None:
    """Add what an `item` or a `component` stands for, moved by its transform and those above."""
    if depth > DEEPEST:
        raise ValueError("objects within objects without end")
    matrix = above @ _transform(use.get("transform"))
    element = objects[use.get("objectid")]
    for child in element:
        if _local(child.tag) == "components":
            for component in child:
                _collect(objects, groups, component, matrix, parts, depth + 1)
        elif _local(child.tag) == "mesh":
            points, faces, colors = _geometry(child, element, groups)
            parts.append((points @ matrix[:3, :3].T + matrix[:3, 3], faces, colors))


def _geometry(mesh: ElementTree.Element, element: ElementTree.Element, groups):
    points, faces, tints = [], [], {}
    for part in mesh:
        for entry in part:
            if _local(entry.tag) == "vertex":
                points.append([float(entry.attrib[axis]) for axis in "xyz"])
            elif _local(entry.tag) == "triangle":
                corners = [int(entry.attrib[key]) for key in ("v1", "v2", "v3")]
                faces.append(corners)
                group = groups.get(entry.get("pid", element.get("pid")))
                first = entry.get("p1", element.get("pindex"))
                if group is None or first is None:
                    continue
                for key, corner in zip(("p1", "p2", "p3"), corners, strict=True):
                    tints[corner] = group[int(entry.get(key, first))]
    vertices = np.array(points, dtype=np.float64).reshape(-1, 3)
    colors = None
    if tints:
        colors = np.full((len(vertices), 3), 0.5, dtype=np.float32)
        for corner, tint in tints.items():
            colors[corner] = tint
    return vertices, np.array(faces, dtype=np.int64).reshape(-1, 3), colors


def _transform(text: str | None) -> NDArray[np.float64]:
    """A 3MF transform (twelve numbers, rows of the transposed matrix) as `[4, 4]`."""
    matrix = np.eye(4)
    if text is not None:
        matrix[:3] = np.array([float(x) for x in text.split()]).reshape(4, 3).T
    return matrix


def _color(element: ElementTree.Element) -> list[float]:
    text = element.get("color") or element.attrib["displaycolor"]
    return [int(text[i : i + 2], 16) / 255.0 for i in (1, 3, 5)]

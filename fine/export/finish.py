"""What a material has beside its albedo, as textures: roughness, metallic, and normals of its own.

One picture holds the first two as glTF 2.0 has them: green is roughness, blue is metallic, both
linear; red, where others keep occlusion, is 1. An MTL names them one by one (`map_Pr`, `map_Pm`).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...common.files import write_whole
from ..material import Finish
from .bake import bake
from .normals import bake_normals
from .pictures import encoded
from .source import Surface
from .unwrap import Unwrapped

ROUGHNESS, METALLIC = 1, 2  # channels of the picture
LIKE = 4.0  # of 255: how far a lossy picture's channel may lie from what it was made of, on average
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class LooseMaps:
    """Pictures of one channel each, beside an OBJ. mean: of roughness and metallic, in [0, 1]."""

    roughness: Path
    metallic: Path
    mean: tuple[float, float]

    def lines(self) -> str:
        """The material's lines in an MTL (the PBR extension that Blender reads and writes).

        The plain values are the maps' means, for programs that know those alone.
        """
        rough, metal = self.mean
        return (
            f"Pr {rough:.4f}\nPm {metal:.4f}\n"
            f"map_Pr {self.roughness.name}\nmap_Pm {self.metallic.name}\n"
        )


def bake_finish(
    unwrapped: Unwrapped,
    size: int,
    finish: Finish,
    device: torch.device | str = "cpu",
    surface: Surface | None = None,
) -> Bytes:
    """The metallic-roughness texture, uint8 `[size, size, 3]`, row 0 on top; see `bake`."""

    def channels(points: Tensor) -> Tensor:
        found = finish.surface(points).to(points.device)
        return torch.cat([torch.ones_like(found[:, :1]), found], dim=-1)

    return bake(unwrapped, size, channels, device, surface).texture


def bake_bent(
    unwrapped: Unwrapped,
    size: int,
    surface: Surface | None,
    finish: Finish | None,
    device: torch.device | str = "cpu",
) -> Bytes | None:
    """The normal map of a decimated surface, of a material that bends normals, or of both.

    None if there is neither, so that it would be flat.
    """
    bend = None if finish is None else finish.bend
    if surface is None and bend is None:
        return None
    return bake_normals(unwrapped, size, surface, None if bend is None else _in_numpy(bend, device))


def write_loose(folder: Path, name: str, texture: Bytes) -> LooseMaps:
    """Write NAME-roughness.png and NAME-metallic.png into `folder`, grey and linear."""
    paths = [folder / f"{name}-{what}.png" for what in ("roughness", "metallic")]
    for path, channel in zip(paths, (ROUGHNESS, METALLIC), strict=True):
        write_whole(path, encoded(np.ascontiguousarray(texture[..., channel]), "png"))
    rough, metal = (float(texture[..., c].mean()) / 255.0 for c in (ROUGHNESS, METALLIC))
    return LooseMaps(paths[0], paths[1], (rough, metal))


def check_finish(path: Path, texture: Bytes) -> None:
    """Read a file's roughness and metallic as a stranger would; formats without them pass.

    Raises OSError if they are missing, or aren't those of `texture`.
    """
    match path.suffix:
        case ".glb":
            found = _of_glb(path)
        case ".obj":
            found = _of_obj(path)
        case ".usdz":
            found = _of_usdz(path)
        case _:
            return
    wanted = texture[..., [ROUGHNESS, METALLIC]].astype(np.float32)
    if found is None or found.shape != wanted.shape:
        raise OSError(f"{path.name} does not read back with its roughness and metallic")
    if np.abs(found - wanted).mean(axis=(0, 1)).max() > LIKE:
        raise OSError(f"{path.name} reads back with another roughness or metallic")


def _of_glb(path: Path) -> NDArray[np.float32] | None:
    import trimesh

    (mesh,) = trimesh.load(path, process=False).geometry.values()  # pyright: ignore[reportAttributeAccessIssue]
    image = mesh.visual.material.metallicRoughnessTexture
    return None if image is None else _channels(image)


def _of_obj(path: Path) -> NDArray[np.float32] | None:
    text = path.with_suffix(".mtl").read_text("ascii")
    names = [re.search(rf"^{key} (\S+)$", text, re.M) for key in ("map_Pr", "map_Pm")]
    parts: list[NDArray[np.float32]] = []
    for name in names:
        if name is None or not (path.parent / name[1]).is_file():
            return None
        with Image.open(path.parent / name[1]) as image:
            parts.append(np.asarray(image.convert("L")).astype(np.float32))
    return np.stack(parts, axis=-1) if parts[0].shape == parts[1].shape else None


def _of_usdz(path: Path) -> NDArray[np.float32] | None:
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if Path(n).stem.endswith("-finish")]
        if not names:
            return None
        with archive.open(names[0]) as file, Image.open(file) as image:
            return _channels(image)


def _channels(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image.convert("RGB"))[..., [ROUGHNESS, METALLIC]].astype(np.float32)


def _in_numpy(
    bend: Callable[[Tensor, Tensor], Tensor], device: torch.device | str
) -> Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]:
    def bent(points: NDArray[np.float64], normals: NDArray[np.float64]) -> NDArray[np.float64]:
        given = (torch.from_numpy(x.astype(np.float32)).to(device) for x in (points, normals))
        return bend(*given).double().cpu().numpy()

    return bent

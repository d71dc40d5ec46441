"""What a run keeps of the picture that it starts from, in its folder's `image/`.

cutout.png    the object in its frame, RGBA; all that the stages read
overview.png  picture, mask and frame side by side, for people
depth.png, normal.png  the maps in the same frame, where the user gave them; 16 and 8 bits
image.json    where it comes from and how it was laid into the frame; written last
pose.json     how high its camera stood, where that was searched
shown.json    what a prior of the toybox says it shows, and where its camera stands around that
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.image import ImageConfig
from ..errors import UserError
from ..files import write_whole
from ..picture.cutout import Cutout, cut_out
from ..picture.framing import Place, disappointments, framed, laid, overview, place_for
from ..picture.reading import Picture, digest_of, file_bytes, read_picture
from .folder import Run

FOLDER, TOLD, POSE, SHOWN = "image", "image.json", "pose.json", "shown.json"
DEPTHS = 65535.0


@dataclass(frozen=True)
class Prepared:
    """A picture made ready, before it is kept: files by name, what to tell of it, warnings."""

    files: dict[str, bytes]
    told: dict[str, Any]
    warnings: list[str]


@dataclass(frozen=True)
class Shown:
    """What a prior says of a picture that it was given with a prompt, which may be empty.

    azimuth: where the picture's camera stands around the object, radians. psnr: how near the prior
    comes to the picture, dB.
    """

    prompt: str
    caption: str
    azimuth: float
    psnr: float


@dataclass(frozen=True)
class Kept:
    """The picture as the stages read it.

    rgba: straight, `[S, S, 4]` in [0, 1]. depth: `[S, S]` in [0, 1], near is large. normal: unit
    vectors `[S, S, 3]` in the camera's frame: right, up, backward.
    """

    rgba: Tensor
    depth: Tensor | None = None
    normal: Tensor | None = None


def with_digest(config: ImageConfig) -> ImageConfig:
    """The same settings with a digest of all files that they name. Raises UserError."""
    paths = [p for p in (config.path, config.depth, config.normal) if p is not None]
    return config.model_copy(update={"digest": digest_of(b"\0".join(map(file_bytes, paths)))})


def prepare(config: ImageConfig) -> Prepared:
    """Read a picture, cut its object out, lay it into its frame. Raises UserError.

    config: with a `fill`. Nothing is written.
    """
    assert config.fill is not None
    name = Path(config.path).name
    picture = read_picture(file_bytes(config.path), name)
    cutout = cut_out(picture, name)
    place = place_for(cutout.alpha, config.fill, config.size)
    rgba = framed(cutout, place)
    files = {
        "cutout.png": _png(_bytes(rgba)),
        "overview.png": _png(overview(picture.rgb, cutout, place, rgba)),
    }
    if config.depth is not None:
        depth = _map(config.depth, "depth", picture, cutout, place)
        files["depth.png"] = _png((depth[..., 0] * DEPTHS + 0.5).astype(np.uint16))
    if config.normal is not None:
        files["normal.png"] = _png(_bytes(_map(config.normal, "normal", picture, cutout, place)))
    told = {
        "source": config.path,
        "digest": config.digest,
        "cut out by": cutout.how,
        "pixels": list(cutout.alpha.shape[::-1]),
        "frame": asdict(place),
    }
    return Prepared(files, told, [*picture.notes, *disappointments(cutout, name)])


def framed_picture(config: ImageConfig) -> Tensor:
    """The object of a picture in its frame, straight RGBA `[S, S, 4]`. Raises UserError."""
    assert config.fill is not None
    name = Path(config.path).name
    cutout = cut_out(read_picture(file_bytes(config.path), name), name)
    return torch.from_numpy(framed(cutout, place_for(cutout.alpha, config.fill, config.size)))


def keep(run: Run, prepared: Prepared) -> None:
    """Write what was made of the picture into the run, unless it is there; warn as it is new."""
    folder = run.folder / FOLDER
    if (folder / TOLD).is_file():
        return
    folder.mkdir(exist_ok=True)
    for name, data in prepared.files.items():
        write_whole(folder / name, data)
    write_whole(folder / TOLD, json.dumps(prepared.told, indent=2) + "\n")
    run.event("picture prepared", **prepared.told)
    for warning in prepared.warnings:
        run.warn(warning)


def adopt(source: Run, target: Run) -> None:
    """Copy the picture of one run into another; what says that it is whole comes last."""
    if source.config.image is None or (target.folder / FOLDER / TOLD).is_file():
        return
    (target.folder / FOLDER).mkdir(exist_ok=True)
    files = sorted((source.folder / FOLDER).iterdir(), key=lambda path: path.name == TOLD)
    for path in files:
        write_whole(target.folder / FOLDER / path.name, path.read_bytes())


def elevation_of(run: Run) -> float | None:
    """How high the picture's camera stood, degrees; None if that is yet to be searched."""
    image = run.config.image
    if image is None:
        return None
    if image.elevation != "auto":
        return float(image.elevation)
    try:
        return float(json.loads((run.folder / FOLDER / POSE).read_text("utf-8"))["elevation"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{run.folder / FOLDER / POSE} is damaged; delete it, it is made again"
        ) from None


def write_elevation(run: Run, elevation: float) -> None:
    """Keep what a search found, degrees."""
    found = round(elevation, 2)
    write_whole(run.folder / FOLDER / POSE, json.dumps({"elevation": found}) + "\n")
    run.event("elevation found", elevation=found)


def shown_by(run: Run, prompt: str) -> Shown | None:
    """What was found out before about the run's picture beside this prompt, if it was."""
    path = run.folder / FOLDER / SHOWN
    try:
        shown = Shown(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise UserError(f"{path} is damaged; delete it, it is made again") from None
    return shown if shown.prompt == prompt else None


def write_shown(run: Run, shown: Shown) -> None:
    """Keep what a prior says of the picture."""
    write_whole(run.folder / FOLDER / SHOWN, json.dumps(asdict(shown), indent=2) + "\n")


def read_kept(run: Run) -> Kept:
    """The picture of a run. Raises UserError if it isn't whole."""
    folder = run.folder / FOLDER
    try:
        rgba = _read(folder / "cutout.png", "RGBA") / 255.0
        depth = normal = None
        if run.config.image is not None and run.config.image.depth is not None:
            depth = torch.from_numpy(_read(folder / "depth.png") / DEPTHS)
        if run.config.image is not None and run.config.image.normal is not None:
            raw = torch.from_numpy(_read(folder / "normal.png", "RGB") / 127.5 - 1.0)
            normal = torch.nn.functional.normalize(raw, dim=-1)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"the run's picture in {folder} is missing or damaged ({error}); remove that folder "
            "and give the command that began the run once more"
        ) from None
    return Kept(torch.from_numpy(rgba), depth, normal)


def _map(path: str, what: str, picture: Picture, cutout: Cutout, place: Place) -> np.ndarray:
    """A map of the same frame as the picture, laid like it, `[S, S, 3]`."""
    found = read_picture(file_bytes(path), Path(path).name).rgb
    height, width = picture.rgb.shape[:2]
    if abs(found.shape[1] * height - found.shape[0] * width) > max(*found.shape, height, width):
        raise UserError(
            f"{what}: {Path(path).name} is {found.shape[1]} x {found.shape[0]} where the picture is"
            f" {width} x {height}; give a map of the same frame"
        )
    if found.shape[:2] != (height, width):
        planes = [Image.fromarray(found[..., c]) for c in range(3)]
        size = (width, height)
        found = np.stack([np.asarray(p.resize(size, Image.Resampling.BILINEAR)) for p in planes], 2)
    weight = laid(cutout.alpha, place)
    planes = [laid(found[..., c] * cutout.alpha, place) for c in range(3)]
    return np.clip(np.stack(planes, axis=-1) / np.maximum(weight, 1e-4)[..., None], 0.0, 1.0)


def _bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def _read(path: Path, mode: str | None = None) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image if mode is None else image.convert(mode)).astype(np.float32)

"""How near a mesh made of one picture comes to the truth: `known_answer.py --image --mesh`.

Sixteen toys, half of them in a colour or pattern that the learned prior was never shown, all in
proportions that it was never shown, each seen once: from anywhere around it, 0 to 30 degrees up.
The run is given the picture and how high its camera was, `--tilt` degrees wrong or `auto`, and no
caption. Its world is turned so that the picture's camera looks from azimuth 0; the mesh is turned
back before it is compared.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from continuation import UNSEEN
from kept import SCORES, begun, failing_in_one_line, kept
from PIL import Image
from results import save_sheet, table, write_section
from torch import Tensor

from maquette.coarse.train import run_coarse
from maquette.common.begin import Choices
from maquette.common.rasterize import Raster, interpolate
from maquette.common.runs.folder import Run, open_run, slug
from maquette.common.runs.picture import elevation_of
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.scene.images import psnr
from maquette.common.scene.mesh import Mesh
from maquette.common.toybox.grammar import parse
from maquette.common.toybox.objects import ToyObject, build
from maquette.common.toybox.score import (
    NEUTRAL,
    RESOLUTION,
    Textured,
    score,
    surface_scores,
    unlit_views,
    visible_points,
)
from maquette.common.toybox.studio import albedo_views, cutouts
from maquette.fine.evaluate import textured
from maquette.fine.model import AnyModel
from maquette.fine.train import load_finished, run_fine

HIGHEST = 30.0
"""Degrees above the horizon up to which the pictures are taken."""
FAR = (120, 150, 180, 210, 240)
"""Degrees from the picture's camera to the views of the far side."""
PIXELS, THUMB = 512, 76


@dataclass(frozen=True)
class Made:
    """What is said of one picture's mesh; PSNR in dB of unlit views, elevations in degrees."""

    caption: str
    f_score: float
    iou: float
    psnr: float
    far: float
    own: float
    elevation: float
    told: float
    seconds: float


def pictured(captions: list[str], options: argparse.Namespace) -> None:
    """Make, score and tabulate all of them; of the whole, a picture in docs/images/."""
    first, step = map(int, options.part.split("/"))
    shown = list(enumerate(captions))[first : options.limit : step]
    made = [_kept(number, caption, options) for number, caption in shown]
    body = report(made, options) + beside(shown, options)
    print(body)
    if len(shown) < len(captions) or options.settings:
        return
    name = f"{options.prior}{'' if options.tilt is None else f'-{options.tilt}'}"
    write_section(f"known_answer.py --image --mesh, {name}", body)
    if options.tilt is None:
        rows = [row(number, caption, options) for number, caption in enumerate(captions)]
        save_sheet(torch.cat(rows), Path(f"docs/images/pictured-{options.prior}.png"), columns=18)


def place(number: int) -> tuple[float, float]:
    """Azimuth and elevation, radians, of the camera of picture `number` of sixteen."""
    azimuth = (number * math.pi * (3.0 - math.sqrt(5.0))) % (2.0 * math.pi)
    return azimuth, math.radians(HIGHEST * (number * 7 % 16) / 15)


def at(azimuth: float, elevation: float) -> Cameras:
    """One camera of the studio; radians."""
    table = torch.tensor([[azimuth], [elevation], [3.0], [math.radians(40.0)]])
    return Cameras(table[0], table[1], table[2], table[3])


def toy_of(number: int, caption: str) -> ToyObject:
    """The toy of a caption in proportions that nobody was shown."""
    return build(parse(caption), UNSEEN + number)


def opened(number: int, caption: str, options: argparse.Namespace) -> Run:
    """The run of a picture, begun now or before; the picture lies beside it."""
    told = "true" if options.tilt is None else options.tilt
    folder = options.runs / Path(options.prior).name / f"pictured-{told}" / slug(caption)
    folder.parent.mkdir(parents=True, exist_ok=True)
    picture = folder.with_suffix(".png")
    azimuth, elevation = place(number)
    if not picture.is_file():
        rgba = cutouts(toy_of(number, caption), at(azimuth, elevation), PIXELS)[0]
        Image.fromarray((rgba * 255.0 + 0.5).to(torch.uint8).numpy()).save(picture)
    height = math.degrees(elevation)
    if options.tilt is not None:
        height = "auto" if options.tilt == "auto" else height + float(options.tilt)
    settings = ["image.fill=0", *options.settings]
    if options.prior == "exact":
        settings += [f"{stage}.prior.instance={UNSEEN + number}" for stage in ("coarse", "fine")]
    choices = Choices(
        settings=settings, prior=options.prior, images=[str(picture)], elevation=str(height)
    )
    return begun("", folder, choices)


def _kept(number: int, caption: str, options: argparse.Namespace) -> Made:
    def make() -> dict[str, Any]:
        began = time.perf_counter()
        run_coarse(run)
        run_fine(run)
        seconds = time.perf_counter() - began
        made = judged(number, caption, run, seconds)
        print(" | ".join(cells(made)), flush=True)
        return asdict(made)

    with failing_in_one_line(caption):
        run = opened(number, caption, options)
        return Made(**kept(run, make))


def judged(number: int, caption: str, run: Run, seconds: float) -> Made:
    """Scores of a finished run against the toy of its picture."""
    azimuth, elevation = place(number)
    truth, model = toy_of(number, caption), turned(load_finished(run), azimuth)
    scores = score(model, truth)
    told = elevation_of(run)
    return Made(
        caption=caption,
        f_score=scores.f_score,
        iou=scores.iou,
        psnr=scores.psnr,
        far=far_side(model, truth, azimuth),
        own=likeness(model, truth, [azimuth], elevation),
        elevation=math.degrees(elevation),
        told=math.nan if told is None else told,
        seconds=seconds,
    )


def turned(model: AnyModel, angle: float) -> Textured:
    """A model turned about Z by an angle (radians), as the scores want it."""
    c, s = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    mesh = model.mesh()
    there = Mesh(mesh.vertices @ rotation.T, mesh.faces)

    def colors(raster: Raster) -> Tensor:
        return model.albedo(interpolate(there.vertices, raster) @ rotation)

    return Textured(there, colors)


def far_side(model: Textured, truth: ToyObject, azimuth: float) -> float:
    """The likeness (dB) of the side that a picture from an azimuth (radians) doesn't show."""
    return likeness(model, truth, [azimuth + math.radians(turn) for turn in FAR], 0.25)


def likeness(model: Textured, truth: ToyObject, azimuths: list[float], elevation: float) -> float:
    """The mean PSNR (dB) of unlit views from some azimuths; radians."""
    found = []
    for azimuth in azimuths:
        camera = at(azimuth, elevation)
        image, _ = unlit_views(model, camera)
        wanted, _ = albedo_views(truth, camera, RESOLUTION, NEUTRAL)
        found.append(psnr(image, wanted))
    return sum(found) / len(found)


def report(made: list[Made], options: argparse.Namespace) -> str:
    """The table, the means, and how far the elevations that were told lie off."""
    header = ["picture", "F", "IoU", "PSNR", "PSNR far side", "PSNR own view", "elevation", "told",
              "seconds"]  # fmt: skip
    rows = [cells(m) for m in made]

    def mean(name: str) -> float:
        return sum(getattr(m, name) for m in made) / len(made)

    digits = {"f_score": 3, "iou": 3, "psnr": 1, "far": 1, "own": 1}
    rows.append(
        ["**all**", *(f"{mean(name):.{d}f}" for name, d in digits.items()), "", "",
         f"{mean('seconds'):.0f}"]
    )  # fmt: skip
    off = sum(abs(m.told - m.elevation) for m in made) / len(made)
    return (
        f"One picture in, before no backdrop, {PIXELS} px, without a caption, prior "
        f"{Path(options.prior).name}: F-score at 0.03, silhouette IoU and unlit PSNR (dB) over 24 "
        f"views, over views 120 to 240 degrees from the picture's camera, and of the picture's own "
        f"view. The elevation that was told lies {off:.1f} degrees off in the mean.\n\n"
        f"{table(header, rows)}"
    )


def beside(shown: list[tuple[int, str]], options: argparse.Namespace) -> str:
    """What the same captions come to without a picture: kept runs, and the toys they stand for."""
    words = [by_words(number, caption, options) for number, caption in shown]
    toys = [against(textured_toy(caption), number, caption) for number, caption in shown]
    lines = {"the captions' own toys, in the proportions that the prior was shown most": toys}
    runs = [scores for scores in words if scores is not None]
    if len(runs) == len(shown):
        lines = {"runs of the captions alone": runs, **lines}
    said = [
        f"{what}: F {sum(f for f, _ in found) / len(found):.3f}, far side "
        f"{sum(far for _, far in found) / len(found):.1f} dB"
        for what, found in lines.items()
    ]
    return f"\n\nAgainst the same truth, without the picture: {'; '.join(said)}."


def by_words(number: int, caption: str, options: argparse.Namespace) -> tuple[float, float] | None:
    """F-score and PSNR of the far side of a run of the caption alone; None where there is none."""
    folder = options.words / Path(options.prior).name / slug(caption)
    if not (folder / SCORES).is_file():
        return None
    with failing_in_one_line(caption):
        return against(textured(load_finished(open_run(str(folder)))), number, caption)


def textured_toy(caption: str) -> Textured:
    """The toy of a caption in its canonical proportions."""
    toy = build(parse(caption))

    def colors(raster: Raster) -> Tensor:
        return toy.albedo(interpolate(toy.mesh.vertices, raster), raster.face)

    return Textured(toy.mesh, colors)


def against(model: Textured, number: int, caption: str) -> tuple[float, float]:
    """F-score and PSNR (dB) of the far side of any model of a picture's caption."""
    truth, (azimuth, _) = toy_of(number, caption), place(number)
    f, _ = surface_scores(visible_points(model.mesh), visible_points(truth.mesh))
    return f, far_side(model, truth, azimuth)


def cells(made: Made) -> list[str]:
    """One row of the table."""
    return [
        made.caption, f"{made.f_score:.3f}", f"{made.iou:.3f}", f"{made.psnr:.1f}",
        f"{made.far:.1f}", f"{made.own:.1f}", f"{made.elevation:.0f}", f"{made.told:.0f}",
        f"{made.seconds:.0f}",
    ]  # fmt: skip


def row(number: int, caption: str, options: argparse.Namespace) -> Tensor:
    """The picture before white, four views, the same four of the truth: `[9, H, H, 3]`."""
    azimuth, elevation = place(number)
    run = opened(number, caption, options)
    truth, model = toy_of(number, caption), turned(load_finished(run), azimuth)
    around = orbit(4)
    cameras = Cameras(around.azimuth + azimuth, around.elevation, around.distance, around.fovy)
    shown = cutouts(truth, at(azimuth, elevation), THUMB)
    picture = shown[..., 3:] * shown[..., :3] + (1.0 - shown[..., 3:])
    found, _ = unlit_views(model, cameras, THUMB)
    wanted, _ = albedo_views(truth, cameras, THUMB, NEUTRAL)
    return torch.cat([picture, found, wanted])

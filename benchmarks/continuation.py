"""How well a prior alone continues a picture: views of a toy that it is shown one view of.

Sixteen toys, half of them in a colour or pattern that training never showed, all in proportions
that it never showed. The prior sees one picture before white, and isn't told where the toy's front
is, only how far around it a view lies. What it makes of that is compared with what it makes of the
caption and the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from knowledge import CAMERA, Hints, as_images, denoised, sample, true_views
from results import save_sheet, table
from torch import Tensor

from maquette.common.embedded.training.data import View
from maquette.common.priors.pretrained import PretrainedPrior
from maquette.common.scene.images import psnr_of_each
from maquette.common.toybox.grammar import parse

TURNS = (45, 90, 135, 180)
"""Degrees from the picture's camera to the views."""
UNSEEN = 1000
"""The number of the first set of proportions; training shows those up to 64."""
REFERENCE = (math.radians(25.0), math.radians(15.0))
ELEVATION, FOVY = math.radians(15.0), math.radians(40.0)
NOISE = 0.98
SHOWN = 64
"""Pixels of a view in the sheet."""
WAYS = {
    "caption and camera": CAMERA,
    "picture": Hints(camera=False, picture=True, caption=False),
    "picture and caption": Hints(camera=False, picture=True),
}


@dataclass(frozen=True)
class Continued:
    """What a prior made of each view, by what it was told: one step, and a sample.

    pictures, truth: `[N, H, W, 3]`, N toys by `TURNS`; guesses and samples by the names of `WAYS`.
    """

    pictures: Tensor
    truth: Tensor
    guesses: dict[str, Tensor]
    samples: dict[str, Tensor]


def views_of(captions: list[str]) -> list[View]:
    """The views that are asked for, every caption's in a row."""
    azimuth = REFERENCE[0]
    return [
        View(parse(c), UNSEEN + i, azimuth + math.radians(turn), ELEVATION, FOVY, REFERENCE)
        for i, c in enumerate(captions)
        for turn in TURNS
    ]


def continued(prior: PretrainedPrior, captions: list[str]) -> Continued:
    """Ask a prior for all views, in every way, one toy after the other."""
    pictures, truths = [], []
    guesses: dict[str, list[Tensor]] = {name: [] for name in WAYS}
    samples: dict[str, list[Tensor]] = {name: [] for name in WAYS}
    every = views_of(captions)
    for toy in range(len(captions)):
        views = every[toy * len(TURNS) : (toy + 1) * len(TURNS)]
        front = View(views[0].caption, views[0].instance, *REFERENCE, FOVY)
        pictures.append(true_views([front], prior.resolution))
        truths.append(true_views(views, prior.resolution))
        for name, told in WAYS.items():
            found, _ = denoised(prior, truths[-1], views, NOISE, told, seed=toy)
            guesses[name].append(as_images(prior, found))
            samples[name].append(sample(prior, views, told, seed=toy))
    joined = [{name: torch.cat(kept[name]) for name in WAYS} for kept in (guesses, samples)]
    return Continued(torch.cat(pictures), torch.cat(truths), *joined)


def report(found: Continued) -> str:
    """The table of PSNR by turn and way, the mean over toys."""
    header = [
        "degrees away",
        *(f"{way}, {kind}" for way in WAYS for kind in ("one step", "sample")),
    ]
    rows = []
    for turn, degrees in enumerate(TURNS):
        cells = [str(degrees)]
        for way in WAYS:
            for images in (found.guesses[way], found.samples[way]):
                every = psnr_of_each(
                    images[turn :: len(TURNS)], found.truth[turn :: len(TURNS)], 1.0
                )
                cells.append(f"{float(every.mean()):.1f}")
        rows.append(cells)
    return (
        f"{len(found.pictures)} toys in proportions never shown, half of them in colours or "
        f"patterns never shown: the mean PSNR (dB) of the prior's answer for views around "
        f"them at {found.truth.shape[1]} px, in one step at noise level {NOISE:g} without "
        f"guidance and as a sample at guidance scale 2. Told a picture, the prior isn't told the "
        f"camera, only how far from the picture's a view lies.\n\n{table(header, rows)}"
    )


def sheet(found: Continued, path: Path) -> None:
    """A picture: every toy's picture, then for each turn the truth and the sample."""
    rows = []
    for toy, picture in enumerate(found.pictures):
        views = slice(toy * len(TURNS), (toy + 1) * len(TURNS))
        pairs = zip(found.truth[views], found.samples["picture"][views], strict=True)
        rows.append(torch.stack([picture, *(image for pair in pairs for image in pair)]))
    images = torch.cat(rows).permute(0, 3, 1, 2)
    small = F.interpolate(images, (SHOWN, SHOWN), mode="area").permute(0, 2, 3, 1)
    save_sheet(small, path, columns=2 * (1 + 2 * len(TURNS)))

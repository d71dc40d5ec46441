"""What a prior of the toybox takes pictures for: `known_answer.py --image --found`.

The pictures of `pictured.py`; of each, the caption, the azimuth and the elevation that the
diffusion classifier finds (`common/guidance/describe.py`), which a run begins with. The elevation
is told as it is, told too high by some degrees, or searched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pictured import PIXELS, at, place, toy_of
from results import table, write_section

from maquette.common.guidance.describe import describe
from maquette.common.priors.base import Prior
from maquette.common.toybox.grammar import parse
from maquette.common.toybox.studio import BACKDROP, cutouts

TOLD = (0.0, 10.0, 20.0, 30.0, None)
"""Degrees by which the elevation is told too high; None: it isn't told."""
FRONT = 30.0
"""Degrees of azimuth up to which a front counts as found."""


@dataclass(frozen=True)
class Found:
    """What was found of one picture; angles in degrees off the truth."""

    caption: str
    wanted: str
    azimuth: float
    elevation: float

    @property
    def object(self) -> bool:
        """Whether the object and its main colour are right."""
        a, b = parse(self.caption), parse(self.wanted)
        return (a.category, a.color) == (b.category, b.color)


def recognised(prior: Prior, captions: list[str], limit: int) -> None:
    """Ask about all of them under each elevation; print and write the tables."""
    rows = []
    for told in TOLD:
        found = [look(prior, n, c, told) for n, c in enumerate(captions[:limit])]
        rows.append(row(told, found))
        print(" | ".join(rows[-1]), flush=True)
    near = f"front within {FRONT:.0f} degrees"
    header = ["elevation", "object and colour right", "whole caption right", near,
              "azimuth off, median", "elevation off, mean"]  # fmt: skip
    body = (
        f"What the default prior takes {min(limit, len(captions))} pictures of toys in proportions "
        f"never shown for, half of them of pairs never shown, before a run begins; angles in "
        f"degrees.\n\n{table(header, rows)}"
    )
    print(body)
    if limit >= len(captions):
        write_section("known_answer.py --image --found", body)


def look(prior: Prior, number: int, caption: str, told: float | None) -> Found:
    """What the prior takes picture `number` for."""
    azimuth, elevation = place(number)
    rgba = cutouts(toy_of(number, caption), at(azimuth, elevation), PIXELS)[0]
    height = None if told is None else elevation + math.radians(told)
    seen = describe(prior, rgba, at(0.0, 0.0), height, torch.tensor(BACKDROP))
    off = math.degrees(math.remainder(seen.azimuth - azimuth, 2.0 * math.pi))
    print(f"{caption} -> {seen.caption.text}, {off:+.0f} degrees", flush=True)
    return Found(seen.caption.text, caption, off, math.degrees(seen.elevation - elevation))


def row(told: float | None, found: list[Found]) -> list[str]:
    """One line of the table."""
    count = len(found)
    said = "searched" if told is None else f"told, {told:.0f} too high" if told else "told"
    off = torch.tensor([abs(f.azimuth) for f in found])
    return [
        said,
        f"{sum(f.object for f in found)} of {count}",
        f"{sum(f.caption == f.wanted for f in found)} of {count}",
        f"{int((off <= FRONT).sum())} of {count}",
        f"{float(off.median()):.0f}",
        f"{sum(abs(f.elevation) for f in found) / count:.1f}",
    ]

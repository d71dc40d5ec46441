"""What a prior that isn't told the camera knows of the view: by noise level and azimuth.

True views of toys are noised and denoised under the words for each view; the words with the least
error are what the prior takes the view for (`guidance.classify`). No remedy can use more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from results import table
from safetensors.torch import load_file, save_file
from torch import Tensor

from maquette.common.config.priors import PriorConfig
from maquette.common.config.prompts import BACK, FRONT, SIDE, VIEWS, PromptConfig
from maquette.common.embedded.door import load
from maquette.common.embedded.vocabulary import is_held_out
from maquette.common.guidance.classify import Opinion, opinion
from maquette.common.guidance.faces import LEVELS as ASKED
from maquette.common.guidance.faces import SURE, TRACE, sides_of
from maquette.common.priors.base import Condition
from maquette.common.runs.folder import slug
from maquette.common.scene.cameras import orbit
from maquette.common.scene.view_words import view_indices
from maquette.common.toybox.grammar import parse
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import photograph

LEVELS = (0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
TURNS, DRAWS = 12, 2
"""Azimuths of each toy, evenly around it, and noises at each level."""
CAMERAS = orbit(TURNS)
AHEAD, BEHIND = (0, 1, 11), (4, 5, 6, 7, 8)
"""Up to 30 degrees from the front, and from 120 degrees on: where a judge of faces is asked."""


def known(captions: Sequence[str], folder: Path, space: str) -> Tensor:
    """Errors `[N, L, D, 5, TURNS]` under the words of VIEWS, and under none; kept in a folder."""
    found, prior = [], None
    for caption in captions:
        path = folder / f"{space}-{slug(caption)}.safetensors"
        if not path.is_file():
            prior = prior or load(PriorConfig(name=f"toybox-{space}"))
            side = 64 if space == "pixel" else 512
            with torch.no_grad():
                x = prior.encode_image(photograph(build(caption), CAMERAS, side))
            texts = [*(f"{caption}, {view} view" for view in VIEWS), caption]
            told = [Condition(prior.encode_text([text] * TURNS)) for text in texts]
            seen = opinion(prior, x, told, LEVELS, DRAWS).errors
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"errors": seen.reshape(len(LEVELS), DRAWS, 5, TURNS)}, path)
            print(caption, flush=True)
        found.append(load_file(path)["errors"])
    return torch.stack(found)


def told_by_level(errors: Tensor) -> str:
    """A table: a noise level a row, what views are taken for and how the words' margin turns."""
    truth = torch.tensor(view_indices(CAMERAS, PromptConfig()))
    rows = []
    for number, level in enumerate(LEVELS):
        own = errors[:, number].log().mean(dim=1)  # (N, 5, TURNS)
        taken = own[:, :4].argmin(dim=1)
        cells = [_shares(taken, truth, view) for view in (FRONT, SIDE, BACK)]
        margin = 100.0 * (own[:, BACK] - own[:, FRONT]).mean(dim=0)
        words = own[:, 4] - own[:, :4].gather(1, truth.expand(len(own), 1, -1))[:, 0]
        rows.append(
            [
                f"{level:g}",
                *cells,
                f"{100 * float((taken == truth).float().mean()):.0f} %",
                *(f"{float(margin[i]):+.2f}" for i in (0, 2, 3, 4, 6)),
                f"{100 * float(words.mean()):+.2f}",
            ]
        )
    header = ["noise level", *(f"{VIEWS[v]} as f/s/b/o" for v in (FRONT, SIDE, BACK)), "right"]
    header += [f"margin at {CAMERAS.azimuth[i].rad2deg():.0f}°" for i in (0, 2, 3, 4, 6)]
    return table([*header, "own words"], rows)


def _shares(taken: Tensor, truth: Tensor, view: int) -> str:
    """Of views of one kind, the per cent that are taken for each of VIEWS."""
    of = taken[:, truth == view]
    return "/".join(f"{100 * float((of == v).float().mean()):.0f}" for v in range(4))


def ideal(errors: Tensor) -> str:
    """What an ideal use of what the prior knows would reach: its sign from all that was asked."""
    margins = errors[..., BACK, :].log() - errors[..., FRONT, :].log()
    lines = []
    for name, levels in (
        ("all levels", range(len(LEVELS))),
        ("the judge's levels", [LEVELS.index(v) for v in ASKED]),
        ("0.7 and above", [i for i, v in enumerate(LEVELS) if v >= 0.7]),
    ):
        mean = margins[:, list(levels)].mean(dim=(1, 2))
        front = float((mean[:, AHEAD] > 0.0).float().mean())
        back = float((mean[:, BEHIND] < 0.0).float().mean())
        rest = round(LOOKS_OF_ALL * (1.0 - back))
        lines.append([name, f"{100 * front:.0f} %", f"{100 * back:.0f} %", str(rest)])
    header = ["asked at", "fronts told", "backs told", f"Janus views left of {LOOKS_OF_ALL}"]
    return table(header, lines)


LOOKS_OF_ALL = 24 * 8
"""Views from behind of the toys that have a front; the other eight of 32 never count."""


def agreement(errors: Tensor, captions: Sequence[str]) -> str:
    """How often the judge of faces is right of true views, as it is shipped but for its draws."""
    levels = [LEVELS.index(v) for v in ASKED]
    rows = []
    held = torch.tensor([is_held_out(parse(caption)) for caption in captions])
    for name, chosen in (("seen in training", ~held), ("held out", held)):
        some = errors[chosen][:, levels].flatten(1, 2)  # (N, draws, 5, TURNS)
        sides = [
            sides_of(Opinion(each).evidence(FRONT, BACK, TRACE)).sides for each in some.unbind(0)
        ]
        told = {s: [row[i] for row in sides for i in s] for s in (AHEAD, BEHIND)}
        right = told[AHEAD].count("front") + told[BEHIND].count("back")
        wrong = told[AHEAD].count("back") + told[BEHIND].count("front")
        asked = right + wrong + sum(t.count("unsure") for t in told.values())
        rows.append(
            [
                name,
                str(asked),
                f"{100 * (right + wrong) / asked:.0f} %",
                f"{100 * right / max(1, right + wrong):.0f} %",
                f"{told[BEHIND].count('front')} of {len(told[BEHIND])}",
            ]
        )
    header = ["captions", "views", "it tells", "of these right", "backs taken for fronts"]
    return f"At {SURE:g} standard errors:\n\n{table(header, rows)}"

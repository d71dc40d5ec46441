"""What the embedded prior knows: samples, the error by noise level, and what four seeds make of it.

    python benchmarks/prior.py samples   # docs/images/prior-samples.png
    python benchmarks/prior.py errors    # a table into RESULTS.md
    python benchmarks/prior.py seeds     # docs/images/prior-seeds.png and a table; about 10 minutes

`--pixel FOLDER` and `--latent FOLDER` look at other weights than those that come with the program.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from kept import begun, failing_in_one_line, handed_over, kept
from knowledge import BLIND, CAMERA, Hints, denoised, sample, small_things, true_views
from likeness import diversity
from results import save_sheet, table, write_section
from torch import Tensor

from maquette.common.begin import Choices
from maquette.common.config.priors import PriorConfig
from maquette.common.embedded.door import load
from maquette.common.embedded.training.data import View, draw_caption
from maquette.common.embedded.vocabulary import HELD_OUT_COLORS
from maquette.common.priors.pretrained import PretrainedPrior
from maquette.common.runs.folder import Run
from maquette.common.scene.cameras import orbit
from maquette.common.scene.images import psnr_of_each
from maquette.common.toybox.grammar import CATEGORIES, COLORS, PATTERNS, Caption
from maquette.common.toybox.score import Scores, unlit_views
from maquette.fine.evaluate import evaluate_run, textured
from maquette.fine.train import first_model

KINDS = ("pixel", "latent")
SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
FOVY = math.radians(40.0)
VIEWS = 64
GROUPS = {
    "seen": (False, CAMERA),
    "held out": (True, CAMERA),
    "blind": (False, BLIND),
    "told the surface": (True, Hints(surface=True)),
}
"""Whether captions are held out, and what is told."""
PLAIN = "one colour"
CAPTION_KINDS: dict[str, Callable[[Caption], bool]] = {
    PLAIN: lambda c: c.pattern is None and c.second is None,
    "two colours": lambda c: c.pattern is None and c.second is not None,
    **{pattern: lambda c, p=pattern: c.pattern == p for pattern in PATTERNS},
}
SEED_CAPTION = "a brown bear"
SCHEDULES = {
    "narrowing": [
        "coarse.distillation.t_min=0.05",
        "coarse.distillation.t_max=[[0, 0.9], [500, 0.4]]",
    ],
    "wide": ["coarse.distillation.t_min=0.02", "coarse.distillation.t_max=0.98"],
}


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("samples", "errors", "seeds"))
    parser.add_argument("--pixel", default="toybox-pixel")
    parser.add_argument("--latent", default="toybox-latent")
    parser.add_argument("--runs", type=Path, default=Path("runs/prior-seeds"))
    options = parser.parse_args()
    if options.what == "seeds":
        seeds(options)
        return
    if options.what == "samples":
        samples(load(PriorConfig(name=options.pixel)))
        return
    priors = {name: load(PriorConfig(name=getattr(options, name))) for name in KINDS}
    write_section("prior.py errors", errors(priors))


def samples(prior: PretrainedPrior) -> None:
    """A sheet: every category as it is, as sampled seen and held out, told the camera or not."""
    colors = list(COLORS)
    rows: list[Tensor] = []
    for index, category in enumerate(CATEGORIES):
        hidden = HELD_OUT_COLORS[category][0]
        shown = next(c for c in colors[index % len(colors) :] + colors if c != hidden)
        views = [
            View(Caption(category, color), 0, azimuth, 0.35, FOVY)
            for color, azimuth in ((shown, 0.6), (hidden, 0.6))
        ]
        truth = true_views(views, prior.resolution)
        told, blind = sample(prior, views), sample(prior, views, BLIND)
        rows.append(torch.stack([truth[0], told[0], blind[0], truth[1], told[1], blind[1]]))
    save_sheet(torch.cat(rows), Path("docs/images/prior-samples.png"), columns=24)


def errors(priors: dict[str, PretrainedPrior]) -> str:
    """The tables of errors by noise level: by what is told, by caption, of small things alone."""
    header = ["noise level", *(f"{kind}, {name}" for kind in KINDS for name in GROUPS)]
    cells: dict[float, list[str]] = {share: [f"{share:g}"] for share in SHARES}
    for prior in priors.values():
        for held_out, told in GROUPS.values():
            views = drawn(VIEWS if prior.space == "pixel" else VIEWS // 4, held_out)
            images = true_views(views, prior.resolution)
            for share in SHARES:
                found, true = denoised(prior, images, views, share, told)
                cells[share].append(f"{decibels(found, true):.1f}")
    body = (
        f"The mean PSNR (dB) of what the network takes noised views for, one step, no guidance: "
        f"views of canonical toys from all over the sphere, {VIEWS} for the pixel prior, "
        f"{VIEWS // 4} for the latent one. The exact prior knows the answer and gives it at every "
        f"noise level. For the pixel prior the peak is white against black; latents have no peak, "
        f"there it is the ratio of their own power to the error's.\n\n"
        f"{table(header, list(cells.values()))}\n\n"
        f"The pixel prior by what the caption says, seen and told the camera; and within the small "
        f"parts of plain toys alone (eyes, windows, all under 2 % of the surface):\n\n"
        f"{errors_by_kind(priors['pixel'], CAMERA)}\n\n"
        f"The latent prior by what the caption says, seen, told camera and surface:\n\n"
        f"{errors_by_kind(priors['latent'], Hints(surface=True))}"
    )
    print(body)
    return body


def errors_by_kind(prior: PretrainedPrior, told: Hints) -> str:
    """The table of errors of one prior by noise level and by what captions name."""
    pixel, cells = prior.space == "pixel", [[f"{share:g}"] for share in SHARES]
    for name, fits in CAPTION_KINDS.items():
        views = drawn(VIEWS if pixel else VIEWS // 4, False, fits)
        images = true_views(views, prior.resolution)
        where = small_things(views, prior.resolution) if pixel and name == PLAIN else None
        for row, share in zip(cells, SHARES, strict=True):
            found, true = denoised(prior, images, views, share, told)
            row.append(f"{decibels(found, true):.1f}")
            if where is not None:
                row.append(f"{decibels_within(found, true, where):.1f}")
    names = [[n, "its small parts"] if pixel and n == PLAIN else [n] for n in CAPTION_KINDS]
    return table(["noise level", *(name for pair in names for name in pair)], cells)


def decibels_within(found: Tensor, true: Tensor, where: Tensor) -> float:
    """PSNR of pixel views over the pixels where `where` `[N, H, W]` says, of all views together."""
    errors = (found - true).square().mean(dim=1)[where]
    return float(10.0 * torch.log10(4.0 / errors.mean()))


def decibels(found: Tensor, true: Tensor) -> float:
    """Mean PSNR; in the three channels of an image the peak is 2, in latents their own power."""
    peak = 2.0 if true.shape[1] == 3 else float(true.square().mean().sqrt())
    return float(psnr_of_each(found, true, peak).mean())


def drawn(
    count: int, held_out: bool, fits: Callable[[Caption], bool] = lambda _: True
) -> list[View]:
    """Views of canonical toys, evenly over the sphere, the same ones at every call.

    fits: which captions to take.
    """
    rng = np.random.default_rng(7)
    views: list[View] = []
    while len(views) < count:
        caption = draw_caption(rng, held_out)
        if not fits(caption):
            continue
        height = math.asin(rng.uniform(-1.0, 1.0))
        views.append(View(caption, 0, rng.uniform(-math.pi, math.pi), height, FOVY))
    return views


def seeds(options: argparse.Namespace) -> None:
    """Four seeds of one caption under two schedules: pictures, and how much they differ."""
    rows, cells = [], []
    for name, settings in SCHEDULES.items():
        runs = [seed_run(options, name, seed, settings) for seed in range(4)]
        looks = [seed_views(run) for run in runs]
        images = torch.stack([image for image, _ in looks])  # [4, 3, H, W, 3]
        masks = torch.stack([mask for _, mask in looks])
        scores = [seed_scores(run) for run in runs]
        f_scores = "  ".join(f"{s.f_score:.3f}" for s in scores)
        ious = "  ".join(f"{s.iou:.3f}" for s in scores)
        cells.append([name, f_scores, ious, f"{diversity(images, masks):.3f}"])
        rows.append(images.flatten(0, 1))
    save_sheet(torch.cat(rows), Path("docs/images/prior-seeds.png"), columns=12)
    header = ["schedule", "F-score of four seeds", "IoU", "diversity"]
    body = f'"{SEED_CAPTION}" after the hand-off, four seeds each.\n\n{table(header, cells)}'
    print(body)
    write_section("prior.py seeds", body)


def seed_run(options: argparse.Namespace, name: str, seed: int, settings: list[str]) -> Run:
    """The finished coarse stage of one seed."""
    choices = Choices(settings=[f"coarse.prior={options.pixel}", *settings], seed=seed)
    with failing_in_one_line(f"{name}, seed {seed}"):
        return handed_over(begun(SEED_CAPTION, options.runs / f"{name}-{seed}", choices))


def seed_scores(run: Run) -> Scores:
    """The scores of the mesh that the hand-off made."""
    return Scores(**kept(run, lambda: asdict(evaluate_run(run, "handoff"))))


def seed_views(run: Run) -> tuple[Tensor, Tensor]:
    """Three views of the mesh that the hand-off made, and their silhouettes."""
    cameras = orbit(8)[torch.tensor([1, 3, 6])]
    return unlit_views(textured(first_model(run)), cameras, 160)


if __name__ == "__main__":
    main()

"""Every distillation loss on captions whose answer is known, under three kinds of priors.

    python benchmarks/losses.py                       # everything: hours on two cores
    python benchmarks/losses.py --only sds,sdi --priors exact --captions 1 --seeds 2 --steps 60

Only the coarse stage is run, where distillation decides the shape, and scored after the hand-off.
Runs and their scores are kept in `runs/losses/PRIOR/LOSS/CAPTION-SEED/` (30 MB each), so a second
call goes on where the first one stopped. A call for everything writes a section of RESULTS.md and
docs/images/losses.png; every call leaves its own contact sheet beside its runs.

What is held equal, so that it is the losses that differ: steps (300), views, noise levels and all
else of the default configuration, with its w(t) = sigma / alpha, which makes every gradient a
difference of images. The published sigma^2 is alpha sigma times that: too little at the high noise
where the first few hundred steps decide the shape. SJC alone keeps its own w = 1 and HiFA its own
schedule, since these are what sets them apart from SDS. Guidance scales are in `CHOICES`.

Adam doesn't see the size of a gradient, but the opacity loss beside it does, whose weight was set
for differences of images. So that weight is multiplied by how much larger or smaller a loss's w(t)
makes them (`pull`). Clipping all gradients to one size would hold the balance too, but undo w(t).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from kept import begun, handed_over, kept
from likeness import diversity, sharpness
from results import table, write_section
from torch import Tensor

from maquette.coarse.train import run_coarse
from maquette.common.begin import Choices
from maquette.common.config.models import CoarseConfig, Schedule
from maquette.common.config.reading import build_config
from maquette.common.errors import UserError
from maquette.common.guidance.timesteps import share_to_timestep
from maquette.common.losses import LOSSES, LossName, WeightKind, weight
from maquette.common.priors.noise import cosine_schedule
from maquette.common.runs.folder import Run, open_run, slug
from maquette.common.scene.cameras import Cameras, orbit, sphere_views
from maquette.common.scene.images import save_strip
from maquette.common.scene.shading import headlights
from maquette.common.schedules import timestep_range
from maquette.common.toybox.grammar import FRONTED, parse
from maquette.common.toybox.objects import ToyObject, build
from maquette.common.toybox.recognize import LOOKS, janus_views
from maquette.common.toybox.score import (
    NEUTRAL,
    Textured,
    score,
    surface_scores,
    unlit_views,
    visible_points,
)
from maquette.common.toybox.studio import AMBIENT, BACKDROP, Color, albedo_views, photograph
from maquette.fine.evaluate import textured
from maquette.fine.model import AnyModel, render_surface
from maquette.fine.train import first_model

CAPTIONS = ("an orange cat", "a green truck", "a blue chair", "a red mushroom")
"""The first is run with every seed. No training shows a green truck; a mushroom has no front."""
SEEDS = 4
STEPS = 300
"""Fewer than a run's 500: enough to tell the losses apart, in two thirds of the time."""
INSTANCES = 8
RESOLUTION, VIEWS, POINTS, TILE = 96, 16, 8_000, 96
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
LOOK = orbit(12)[torch.tensor([1, 6])]
"""The contact sheet's cameras: beside the front, and straight behind."""


class Choice(NamedTuple):
    """What a loss is run with: guidance scale, w(t), and further settings of distillation."""

    scale: float
    weight: WeightKind = "signal"
    settings: tuple[str, ...] = ()


# The published scales, 100 and 7.5, are for models of the wide world, on which the text has little
# hold. A model of the toybox follows its captions: 2 tells a toy from the mean of all toys, and
# already drives the colours past the true ones.
CHOICES: dict[LossName, Choice] = {
    "sds": Choice(2.0),
    # With SDS's w(t) it would be SDS, number for number.
    "sjc": Choice(2.0, "one"),
    # The critic starts as the prior, so at scale 1 there would be no gradient to start with. It has
    # a few hundred steps to learn what it learns in tens of thousands as published, in a network
    # that attends at its smallest level alone.
    "vsd": Choice(2.0, settings=("critic.learning_rate=1e-3", "critic.layers=all")),
    # Balances guidance against the domain correction, which is there below 0.2 T alone.
    "nfsd": Choice(2.0),
    # Multiplies the whole gradient: nothing but the balance with the opacity loss depends on it.
    "csd": Choice(1.0),
    "ism": Choice(2.0),
    # The inversion runs at minus the scale, as published.
    "sdi": Choice(2.0),
    # Without a decoder its extra term is SDS once more; what is left of HiFA is its schedule.
    "hifa": Choice(2.0, settings=("timesteps=sqrt",)),
}


@dataclass(frozen=True)
class Column:
    """A kind of prior: its title, its settings, and how many instances are right answers."""

    title: str
    settings: tuple[str, ...]
    instances: int = 1


COLUMNS = {
    "toybox": Column("the learned prior, told the camera", ("coarse.prior.tell_camera=true",)),
    "blind": Column(
        "the learned prior, blind to the camera (view words in the text)",
        ("coarse.prior.tell_camera=false",),
    ),
    "exact": Column(
        f"the exact prior made ambiguous, {INSTANCES} instances a caption",
        (f"coarse.prior.instances={INSTANCES}",),
        INSTANCES,
    ),
}


class Job(NamedTuple):
    """One run."""

    column: str
    loss: LossName
    caption: str
    seed: int


@dataclass(frozen=True)
class Result:
    """What is kept of a run.

    instance: which true instance it is nearest to; the scores are against that one.
    janus: of `LOOKS` cameras behind. gradient: mean of the root mean square that was logged.
    """

    f_score: float
    chamfer: float
    iou: float
    psnr: float
    sharpness: float
    janus: int
    instance: int
    gradient: float
    seconds: float


Outcomes = dict[Job, Result | str]
"""A result, or in one line why there is none."""


def main() -> None:
    """Run, score, write."""
    options = arguments()
    jobs = [
        Job(column, loss, caption, seed)
        for column in options.priors
        for loss in options.only
        for caption in CAPTIONS[: options.captions]
        for seed in range(options.seeds if caption == CAPTIONS[0] else 1)
    ]
    outcomes = {job: outcome(job, options) for job in jobs}
    body = report(outcomes, options)
    print(body)
    picture = sheet(outcomes, options)
    columns = len(options.priors) * options.captions * len(LOOK)
    save_strip(picture, options.runs / "sheet.png", columns)
    if options.whole:
        save_strip(picture, Path("docs/images/losses.png"), columns)
        write_section("losses.py", body)


def arguments() -> argparse.Namespace:
    """The command line; `whole` says that it asks for the benchmark as it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=names(LOSSES), default=tuple(LOSSES), help="losses: sds,sdi")
    parser.add_argument("--priors", type=names(COLUMNS), default=tuple(COLUMNS))
    parser.add_argument("--captions", type=count, default=len(CAPTIONS), help="the first so many")
    parser.add_argument("--seeds", type=count, default=SEEDS, help="of the first caption")
    parser.add_argument("--steps", type=count, default=STEPS, help="of the coarse stage")
    parser.add_argument("--scale", type=scale, action="append", default=[], help="sdi=2")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--learned", default="toybox", help="name or folder of the learned prior")
    parser.add_argument("--runs", type=Path, help="runs/losses, or runs/losses-N with --steps N")
    options = parser.parse_args()
    options.captions = min(options.captions, len(CAPTIONS))
    options.whole = all(
        getattr(options, name) == parser.get_default(name)
        for name in ("only", "priors", "captions", "seeds", "steps", "scale", "settings", "learned")
    )
    short = "" if options.steps == STEPS else f"-{options.steps}"
    options.runs = options.runs or Path(f"runs/losses{short}")
    options.scale = {loss: choice.scale for loss, choice in CHOICES.items()} | dict(options.scale)
    return options


def names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """A reader of "sds,sdi" that keeps the order of `known`."""

    def read(text: str) -> tuple[str, ...]:
        wanted = text.split(",")
        if unknown := [name for name in wanted if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not of {', '.join(known)}")
        return tuple(name for name in known if name in wanted)

    return read


def count(text: str) -> int:
    """Reads a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def scale(text: str) -> tuple[str, float]:
    """Reads "sdi=2"."""
    loss, _, value = text.partition("=")
    if loss not in LOSSES:
        raise argparse.ArgumentTypeError(f"expected LOSS=NUMBER, LOSS of {', '.join(LOSSES)}")
    return loss, float(value)


def outcome(job: Job, options: argparse.Namespace) -> Result | str:
    """The result of a run, which is finished and scored first if need be."""
    try:
        choices = Choices(settings=settings(job, options), seed=job.seed)
        run = begun(job.caption, place(job, options), choices)
        found = kept(run, lambda: scores(run, job))
    except UserError as error:
        return str(error)
    return found["failure"] if "failure" in found else Result(**found)


def scores(run: Run, job: Job) -> dict[str, Any]:
    """What is kept of a run: its result, or why a finished coarse stage makes no mesh."""
    run_coarse(run)
    try:
        return asdict(judged(handed_over(run), COLUMNS[job.column].instances))
    except UserError as error:
        return {"failure": str(error)}


def place(job: Job, options: argparse.Namespace) -> Path:
    """The folder of a run."""
    return options.runs / job.column / job.loss / f"{slug(job.caption)}-{job.seed}"


def settings(job: Job, options: argparse.Namespace) -> list[str]:
    """The run's differences from the default configuration."""
    choice, column = CHOICES[job.loss], COLUMNS[job.column]
    pairs = [
        f"coarse.prior.name={'exact' if job.column == 'exact' else options.learned}",
        "fine.prior.name=exact",  # the fine stage isn't run
        *column.settings,
        f"coarse.distillation.loss={job.loss}",
        f"coarse.distillation.weight={choice.weight}",
        f"coarse.distillation.guidance_scale={options.scale[job.loss]}",
        *(f"coarse.distillation.{text}" for text in choice.settings),
        f"coarse.steps={options.steps}",
    ]
    if job.loss == "sdi":
        pairs.append(f"coarse.distillation.inversion_scale={-options.scale['sdi']}")
    config = build_config(job.caption, None, [*pairs, *options.settings]).coarse
    opacity = times(config.losses.opacity, pull(config))
    return [*pairs, f"coarse.losses.opacity={json.dumps(opacity)}", *options.settings]


def pull(config: CoarseConfig) -> float:
    """How strongly a unit of difference between images pulls: the mean of w(t) alpha / sigma.

    Over the levels between t_min and t_max, evenly, and over the steps. The cosine schedule is that
    of the exact prior and of the embedded one.
    """
    schedule, distillation = cosine_schedule(1000), config.distillation
    kind = distillation.weight
    sizes = []
    for step in range(config.steps):
        ends = timestep_range(distillation.t_min, distillation.t_max, step)
        low, high = (share_to_timestep(end, len(schedule)) for end in ends)
        alpha, sigma = schedule.alpha[low : high + 1], schedule.sigma[low : high + 1]
        sizes.append(float((weight(kind, alpha, sigma) * alpha / sigma).mean()))
    return fmean(sizes)


def times(schedule: Schedule, factor: float) -> Schedule:
    """A schedule with all its values multiplied, to three decimals."""
    if isinstance(schedule, int | float):
        return round(schedule * factor, 3)
    return [(step, round(value * factor, 3)) for step, value in schedule]


def judged(run: Run, instances: int) -> Result:
    """All that is measured on one run, against the nearest of the caption's first instances."""
    model = first_model(run)
    found = textured(model)
    instance = nearest_instance(found, run.config.prompt, instances)
    truth = build(run.config.prompt, instance)
    cameras = sphere_views(VIEWS)
    lit, mask = (
        lit_views(model, cameras, RESOLUTION, BACKDROP),
        unlit_views(found, cameras, RESOLUTION)[1],
    )
    photos = photograph(truth, cameras, RESOLUTION)
    true_mask = albedo_views(truth, cameras, RESOLUTION, NEUTRAL)[1]
    events = coarse_events(run)
    return Result(
        **asdict(score(found, truth)),
        sharpness=sharpness(lit, mask, photos, true_mask),
        janus=janus_views(found, truth),
        instance=instance,
        gradient=fmean(e["gradient"] for e in events if e["event"] == "checkpoint"),
        seconds=trained_seconds(events),
    )


def nearest_instance(found: Textured, caption: str, count: int) -> int:
    """Which of the first instances of a caption has the least Chamfer distance from a model."""
    points = visible_points(found.mesh, POINTS)
    distances = [
        surface_scores(points, visible_points(build(caption, i).mesh, POINTS))[1]
        for i in range(count if count > 1 else 0)
    ]
    return distances.index(min(distances)) if distances else 0


def coarse_events(run: Run) -> list[dict[str, float]]:
    """What happened in the coarse stage."""
    lines = (run.folder / "events.jsonl").read_text("utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event.get("stage") == "coarse"]


def trained_seconds(events: Sequence[dict[str, float]]) -> float:
    """Seconds of the coarse stage; what a run that was cut off did in vain is left out."""
    total, since = 0.0, 0.0
    for event in events:
        if event["event"] == "checkpoint":
            total += event["time"] - since
        since = event["time"]
    return total


def lit_views(model: AnyModel, cameras: Cameras, resolution: int, backdrop: Color) -> Tensor:
    """Views `[B, H, W, 3]` of a model under the studio's lamp."""
    lights = headlights(cameras.position, AMBIENT)
    before = torch.tensor(backdrop)
    with torch.no_grad():
        surface = model.surface()
        return render_surface(surface, model.texture, cameras, lights, resolution, before).image


def report(outcomes: Outcomes, options: argparse.Namespace) -> str:
    """A table for each prior, and what has to be known to read it."""
    captions = CAPTIONS[: options.captions]
    apart = true_diversity(captions[0], max(2, options.seeds))
    parts = [
        f"The coarse stage alone, scored after the hand-off: means over {', '.join(captions)}, "
        f"with {options.seeds} seeds of the first and one of the others. s: guidance scale. "
        "F-score at 0.03 and silhouette IoU; a run without a mesh counts as 0. Where several "
        "instances are right, the nearest one is the truth. Sharpness: 1 is the truth's, less is "
        f"blurred, more is noisy. Janus: of {LOOKS} cameras behind, how many see what looks more "
        "like the front; over captions that have one. Diversity: root mean square difference of "
        f"the views of two seeds, in [0, 1]; that of true instances is {apart:.3f}. Gradient: its "
        "root mean square in the prior's range [-1, 1]. Seconds: of the coarse stage, "
        "where other processes may have shared the cores."
    ]
    for name in options.priors:
        cells = {
            loss: {job: o for job, o in outcomes.items() if job[:2] == (name, loss)}
            for loss in options.only
        }
        rows = [row(loss, cell, options) for loss, cell in cells.items()]
        parts.append(f"**Prior: {COLUMNS[name].title}**\n\n{table(HEADER, rows)}")
        if failures := [line for cell in cells.values() for line in partial_failures(cell)]:
            parts.append("\n".join(failures))
    return "\n\n".join(parts)


HEADER = ["loss", "s", "F", "IoU", "sharpness", "Janus", "diversity", "gradient", "seconds"]


def row(loss: LossName, cell: Outcomes, options: argparse.Namespace) -> list[str]:
    """One line of a table: a loss under a prior; or why there is nothing to tell."""
    head = [loss, f"{options.scale[loss]:g}"]
    failures = [o for o in cell.values() if isinstance(o, str)]
    if len(failures) == len(cell):
        reasons = dict.fromkeys(first_clause(failure) for failure in failures)
        return [*head, "; ".join(reasons), *["-"] * (len(HEADER) - 3)]
    fronted = {job: o for job, o in cell.items() if parse(job.caption).category in FRONTED}
    return [
        *head,
        told(mean(cell, "f_score", failed=0.0), 3),
        told(mean(cell, "iou", failed=0.0), 3),
        told(mean(cell, "sharpness"), 2),
        told(mean(fronted, "janus"), 1),
        told(found_diversity(cell, options), 3),
        told(mean(cell, "gradient"), 3),
        told(mean(cell, "seconds"), 0),
    ]


def told(value: float | None, digits: int) -> str:
    """A number as text; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def mean(cell: Outcomes, name: str, failed: float | None = None) -> float | None:
    """The mean of one score over captions, the seeds of a caption first; None if there is none.

    failed: what a run without a result counts as; None leaves it out.
    """
    found: dict[str, list[float]] = {}
    for job, o in cell.items():
        value = getattr(o, name) if isinstance(o, Result) else failed
        if value is not None:
            found.setdefault(job.caption, []).append(float(value))
    return fmean(map(fmean, found.values())) if found else None


def partial_failures(cell: Outcomes) -> list[str]:
    """A line for each run without a result in a cell where others have one."""
    failures = {job: o for job, o in cell.items() if isinstance(o, str)}
    if len(failures) == len(cell):
        return []
    return [
        f"- {j.loss}, {j.caption}, seed {j.seed}: {first_clause(o)}" for j, o in failures.items()
    ]


def first_clause(message: str) -> str:
    """What is wrong, without the advice; fit for a table."""
    return re.split(r"[.;] ", message)[0].replace("|", "/")


def found_diversity(cell: Outcomes, options: argparse.Namespace) -> float | None:
    """The diversity of the first caption's seeds; None if fewer than two have a mesh."""
    done = [j for j, o in cell.items() if isinstance(o, Result) and j.caption == CAPTIONS[0]]
    if len(done) < 2:
        return None
    models = [textured(first_model(open_run(str(place(job, options))))) for job in done]
    pairs = [unlit_views(model, sphere_views(VIEWS), RESOLUTION) for model in models]
    images, masks = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return diversity(images, masks)


def true_diversity(caption: str, count: int) -> float:
    """The same of as many true instances."""
    cameras = sphere_views(VIEWS)
    pairs = [albedo_views(build(caption, i), cameras, RESOLUTION, NEUTRAL) for i in range(count)]
    images, masks = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return diversity(images, masks)


def sheet(outcomes: Outcomes, options: argparse.Namespace) -> Tensor:
    """A row of the truth and one for each loss; front and back of every prior and caption.

    `[(1 + losses) * priors * captions * 2, TILE, TILE, 3]`; grey where there is no mesh.
    """
    captions = CAPTIONS[: options.captions]
    tiles = [true_tiles(build(caption)) for _ in options.priors for caption in captions]
    for loss in options.only:
        for column in options.priors:
            for caption in captions:
                job = Job(column, loss, caption, 0)
                if isinstance(outcomes[job], str):
                    tiles.append(torch.full((len(LOOK), TILE, TILE, 3), 0.9))
                else:
                    model = first_model(open_run(str(place(job, options))))
                    tiles.append(lit_views(model, LOOK, TILE, WHITE))
    return torch.cat(tiles)


def true_tiles(toy: ToyObject) -> Tensor:
    """The truth under the studio's lamp, its backdrop exchanged for white."""
    photo = photograph(toy, LOOK, TILE)
    black, white = (albedo_views(toy, LOOK, TILE, color)[0] for color in (BLACK, WHITE))
    free = white - black  # how much of the backdrop each pixel shows
    return photo + free * (torch.tensor(WHITE) - torch.tensor(BACKDROP))


if __name__ == "__main__":
    main()

"""Many faces: what helps a prior that isn't told the camera, on captions whose answer is known.

    python benchmarks/blind.py --knowledge                  # what it knows of the view: minutes
    python benchmarks/blind.py --pull                       # what one step wants of a face behind
    python benchmarks/blind.py                              # every remedy, coarse stage: a day
    python benchmarks/blind.py --whole                      # the same with the fine stage
    python benchmarks/blind.py --only none,starts --limit 2 --seeds 1 --steps 200
    python benchmarks/blind.py --table --steps 200          # of what was run so far, nothing more

Twelve captions with a front, the last four of them never shown in training and to be looked at
once, at the end (`--limit 8` leaves them out). The embedded prior is told the view in words alone.
Runs and their scores are kept in `runs/blind/coarse-STEPS/REMEDY/CAPTION-SEED/`, so a second call
goes on where the first one stopped. A call for everything writes a section of RESULTS.md; every
call prints its table, and `sheet.png` beside the runs has a picture a remedy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import torch
from kept import begun, failing_in_one_line, handed_over, kept
from results import table, write_section
from view_knowledge import agreement, ideal, known, told_by_level
from view_pull import pulls

from maquette.common.begin import Choices
from maquette.common.errors import UserError
from maquette.common.guidance.faces import EVENT
from maquette.common.runs.folder import Run, open_run, slug
from maquette.common.runs.history import read_events
from maquette.common.scene.cameras import orbit
from maquette.common.scene.images import save_strip
from maquette.common.toybox.objects import build
from maquette.common.toybox.recognize import LOOKS, fronts_behind
from maquette.common.toybox.score import (
    Textured,
    surface_scores,
    unlit_views,
    view_scores,
    visible_points,
)
from maquette.fine.evaluate import textured
from maquette.fine.train import first_model, load_finished, run_fine

CAPTIONS = (
    "an orange cat", "a teal car", "a blue chair", "a yellow duck", "a red robot",
    "a red penguin", "a brown bear", "a checkered green turtle",
    "a pink house", "a green truck", "a checkered brown dog", "a dotted teal and white owl",
)  # fmt: skip
"""The last `HELD_OUT` are never shown in training."""
HELD_OUT, SEEDS, STEPS, POINTS = 4, 3, 500, 8_000
PULL = (
    "Pictures of the front of {count} toys shown as if from behind (150 and 180 degrees), and of "
    "the back as it is: by what share of the way to the other one the embedded pixel prior's "
    "estimate of the clean picture goes at scale 2, at four noise levels. Pull: from the front to "
    "the back, which heals a face; drift: from the back to the front, which makes one."
)
COLLAPSED = 0.1
"""Silhouette IoU below which nothing of the object is there."""


class Remedy(NamedTuple):
    """A row of the table. settings: by the stage's steps; `*.` stands for both stages."""

    source: str
    settings: Callable[[int], Sequence[str]]


def plain(source: str, *settings: str) -> Remedy:
    """A remedy whose settings are the same however long a stage is."""
    return Remedy(source, lambda steps: settings)


def joined(*names: str) -> Remedy:
    """Several remedies together."""
    return Remedy(
        " + ".join(names),
        lambda steps: [s for name in names for s in REMEDIES[name].settings(steps)],
    )


REMEDIES: dict[str, Remedy] = {
    "none": plain("as it is"),
    "smooth words": plain("blend of neighbours' texts", "*.text.interpolate=true"),
    "narrow words": plain(
        "front and back within 30 degrees", "*.text.front_angle=30", "*.text.back_angle=30"
    ),
    "scale 5": plain("more guidance", "*.distillation.guidance_scale=5"),
    "view guidance": plain("Liu 2022, eq. 11", "*.text.view_guidance=5"),
    "perp-neg": plain("Armandpour 2023", "*.text.perp_neg=true"),
    "clipping": Remedy(
        "Hong 2023, score debiasing",
        lambda n: (
            f"coarse.distillation.clip=[[0, 0.05], [{n}, 0.5]]",
            "coarse.distillation.clip_by=value",
        ),
    ),
    "dreamtime": plain("Huang 2023", "coarse.distillation.timesteps=dreamtime"),
    "annealed": plain("HiFA, Zhu 2023", "coarse.distillation.timesteps=sqrt"),
    "drop": Remedy(
        "ProlificDreamer, Wang 2023",
        lambda n: (
            f"coarse.distillation.t_max=[[0, 0.98], [{n // 2}, 0.98], [{n // 2 + 1}, 0.5]]",
        ),
    ),
    "noise of the step": plain("one for all views", "coarse.distillation.noise_of=step"),
    "noise of the run": plain("Consistent3D, Wu 2024", "coarse.distillation.noise_of=run"),
    "sdi": plain(
        "Lukoianov 2024", "coarse.distillation.loss=sdi", "coarse.distillation.guidance_scale=2"
    ),
    "esd": plain(
        "Wang 2024, entropy 0.5",
        "coarse.distillation.loss=vsd",
        "coarse.distillation.guidance_scale=2",
        "coarse.distillation.entropy=0.5",
        "coarse.distillation.critic.learning_rate=1e-3",
        "coarse.distillation.critic.layers=all",
    ),
    "front first": Remedy(
        "widens over 0.6 of the steps",
        lambda n: (f"coarse.camera.azimuth_width=[[0, 90], [{int(0.6 * n)}, 360]]",),
    ),
    "known views": plain(
        "drawn more where words tell", "coarse.camera.azimuth_weights=[[0, 2], [90, 0.7], [180, 2]]"
    ),
    "symmetry": plain("left as right, softly", "coarse.losses.symmetry=300"),
    "two views jointly": plain("shared keys and values, Hertz 2024", "*.prior.joint_views=2"),
    "starts": Remedy(
        "best of 4 short starts",
        lambda n: (f"coarse.starts={{count: 4, steps: {max(1, round(0.12 * n))}}}",),
    ),
}
REMEDIES |= {
    "starts, view guidance": joined("starts", "view guidance"),
    "front first, view guidance": joined("front first", "view guidance"),
    "four together": joined("starts", "view guidance", "front first", "symmetry"),
}


@dataclass(frozen=True)
class Answer:
    """What is said of one run.

    janus: of `LOOKS` views from behind, those nearer to the true front. sides: what the prior took
    the same views for; agrees, told: how often it was right, and of how many it could tell.
    """

    f_score: float
    iou: float
    psnr: float
    janus: int
    agrees: int
    told: int
    collapsed: bool
    seconds: float


def main() -> None:
    """Run what is asked for, tabulate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--knowledge", action="store_true", help="what the prior knows, no runs")
    parser.add_argument("--pull", action="store_true", help="what one step wants, no runs")
    parser.add_argument("--space", default="pixel", choices=("pixel", "latent"))
    parser.add_argument("--only", default=",".join(REMEDIES), help="remedies, by comma")
    parser.add_argument("--limit", type=int, default=len(CAPTIONS), help="first captions only")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the coarse stage")
    parser.add_argument("--whole", action="store_true", help="the fine stage as well")
    parser.add_argument("--table", action="store_true", help="only of what was run before")
    parser.add_argument("--runs", type=Path, default=Path("runs/blind"))
    options = parser.parse_args()
    if options.knowledge:
        body = knowledge(options)
        print(body)
        if options.limit >= len(CAPTIONS):
            write_section(f"blind.py --knowledge --space {options.space}", body)
        return
    if options.pull:
        body = pulls(CAPTIONS[: options.limit], options.runs / "pull")
        print(body)
        write_section("blind.py --pull", f"{PULL.format(count=options.limit)}\n\n{body}")
        return
    options.only = [name.strip() for name in options.only.split(",")]
    if unknown := set(options.only) - REMEDIES.keys():
        raise SystemExit(
            f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(REMEDIES)}"
        )
    answers = {name: answered(name, options) for name in options.only}
    body = report({name: found for name, found in answers.items() if found}, options)
    print(body)
    if options.table or (options.limit, options.seeds) == (len(CAPTIONS), SEEDS):
        name = f"blind.py{' --whole' * options.whole} --steps {options.steps}"
        write_section(name, body)


def knowledge(options: argparse.Namespace) -> str:
    """Part A: what the prior knows of the view, and what an ideal use of it would reach."""
    captions = CAPTIONS[: options.limit]
    errors = known(captions, options.runs / "knowledge", options.space)
    return (
        f"What the embedded {options.space} prior, told the view in words alone, takes true views "
        f"of {len(captions)} toys for, 12 azimuths each at 15 degrees of elevation: per cent taken "
        "for front, side, back, overhead; the share that is right; per cent by which the words for "
        "the front explain a view better than those for the back, by azimuth; and its own words "
        f"better than none.\n\n{told_by_level(errors)}\n\n"
        "What an ideal use would reach: the sign of that margin over all noises, for views within "
        f"30 degrees of the front and from 120 degrees on.\n\n{ideal(errors)}\n\n"
        f"The judge of faces on the same views. {agreement(errors, captions)}"
    )


def answered(name: str, options: argparse.Namespace) -> dict[tuple[str, int], Answer]:
    """The answers of a remedy by caption and seed, made where they aren't there yet."""
    found = {}
    for seed in range(options.seeds):
        for caption in CAPTIONS[: options.limit]:
            folder = folder_of(name, caption, seed, options)
            if options.table and not (folder / "scores.json").is_file():
                continue
            with failing_in_one_line(f"{name}, {caption}"):
                run = opened(name, caption, seed, options)
                found[caption, seed] = Answer(**kept(run, lambda run=run: made(run, options)))
    return found


def folder_of(name: str, caption: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a remedy's run lies."""
    stage = f"{'whole' if options.whole else 'coarse'}-{options.steps}"
    return options.runs / stage / slug(name) / f"{slug(caption)}-{seed}"


def opened(name: str, caption: str, seed: int, options: argparse.Namespace) -> Run:
    """The run of a remedy, begun now or before."""
    choices = Choices("blind", settings_of(name, options.steps), seed=seed)
    return begun(caption, folder_of(name, caption, seed, options), choices)


def settings_of(name: str, steps: int) -> list[str]:
    """The settings of a remedy's runs, in a coarse stage of so many steps."""
    settings = [f"coarse.steps={steps}"]
    for setting in REMEDIES[name].settings(steps):
        both = setting.startswith("*.")
        stages = ("coarse", "fine") if both else ("",)
        settings += [setting.replace("*", stage, 1) if both else setting for stage in stages]
    return settings


def made(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Run, and say all there is to say; a run without a surface is a collapsed one."""
    began = time.perf_counter()
    try:
        handed_over(run)
        if options.whole:
            run_fine(run)
    except UserError as error:
        print(f"{run.folder}: {error}", flush=True)
        seconds = time.perf_counter() - began
        return asdict(Answer(0.0, 0.0, 0.0, LOOKS, 0, 0, True, seconds))
    seconds = time.perf_counter() - began
    model = textured(load_finished(run) if options.whole else first_model(run))
    answer = judged(model, run, seconds)
    print(f"{run.folder}: {answer}", flush=True)
    return asdict(answer)


def judged(model: Textured, run: Run, seconds: float) -> Answer:
    """The scores of a model, and how often the prior's own opinion of its back is right."""
    truth = build(run.config.prompt)
    found, true = visible_points(model.mesh, POINTS), visible_points(truth.mesh, POINTS)
    f_score = surface_scores(found, true)[0]
    iou, psnr = view_scores(model, truth)
    fronts = fronts_behind(model, truth)
    events = [e for e in read_events(run.folder) if e["event"] == EVENT]
    sides = events[-1]["sides"] if events else []
    pairs = [(side, front) for side, front in zip(sides, fronts, strict=False) if side != "unsure"]
    agrees = sum((side == "front") == front for side, front in pairs)
    return Answer(f_score, iou, psnr, sum(fronts), agrees, len(pairs), iou < COLLAPSED, seconds)


def report(answers: dict[str, dict[tuple[str, int], Answer]], options: argparse.Namespace) -> str:
    """A row a remedy: means over captions and seeds, the spread over seeds in brackets."""
    rows = []
    for name, by_run in answers.items():
        found = list(by_run.values())
        told = sum(a.told for a in found)
        agrees = f"{100 * sum(a.agrees for a in found) / told:.0f} %" if told else "-"
        rows.append(
            [
                f"{name} ({REMEDIES[name].source})",
                str(len(found)),
                *(spread(by_run, key) for key in ("f_score", "iou", "psnr")),
                f"{sum(a.janus for a in found)} of {LOOKS * len(found)}",
                str(sum(a.collapsed for a in found)),
                f"{fmean(a.seconds for a in found):.0f}",
                f"{agrees} of {told}",
            ]
        )
    header = ["remedy", "runs", "F", "IoU", "PSNR", "fronts from behind", "collapsed", "seconds"]
    stage = "both stages" if options.whole else "the coarse stage alone, after the hand-off"
    sheet(answers, options)
    return (
        f"The embedded prior, not told the camera; {options.steps} coarse steps, {stage}. F at "
        "0.03, silhouette IoU and unlit PSNR (dB) over 24 views; in brackets the standard "
        f"deviation over seeds of the mean. Fronts from behind: of {LOOKS} views of each, those "
        "that look more like the true front. Seconds where other processes may have shared the "
        "cores. The judge: how often it is right of those views that it can tell.\n\n"
        f"{table([*header, 'judge right'], rows)}"
    )


def spread(by_run: dict[tuple[str, int], Answer], key: str) -> str:
    """The mean of a score, and the standard deviation of the seeds' means if there are several."""
    seeds: dict[int, list[float]] = {}
    for (_, seed), answer in by_run.items():
        seeds.setdefault(seed, []).append(getattr(answer, key))
    means = [fmean(values) for values in seeds.values()]
    digits = 1 if key == "psnr" else 3
    told = f"{fmean(v for values in seeds.values() for v in values):.{digits}f}"
    return told if len(means) < 2 else f"{told} ({pstdev(means):.{digits}f})"


def sheet(answers: dict[str, dict[tuple[str, int], Answer]], options: argparse.Namespace) -> None:
    """One row a remedy, the same caption and seed: from the front, the side and behind."""
    rows = []
    for name, by_run in answers.items():
        caption, seed = next(iter(by_run))
        run = open_run(str(folder_of(name, caption, seed, options)))
        if not by_run[caption, seed].collapsed:
            model = textured(load_finished(run) if options.whole else first_model(run))
            rows.append(unlit_views(model, orbit(4)[torch.tensor([0, 1, 2])], 112)[0])
    if rows:
        save_strip(torch.cat(rows), options.runs / "sheet.png", columns=3)


if __name__ == "__main__":
    main()

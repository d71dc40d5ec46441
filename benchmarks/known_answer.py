"""How near the pipeline comes to known answers: captions whose true mesh the toybox knows.

    python benchmarks/known_answer.py                       # the learned prior
    python benchmarks/known_answer.py --prior blind         # the learned one, not told the camera
    python benchmarks/known_answer.py --prior exact         # the exact one
    python benchmarks/known_answer.py --image               # what the prior makes of a picture
    python benchmarks/known_answer.py --image --found       # what it takes one for
    python benchmarks/known_answer.py --image --mesh        # what a run makes of one

One caption of every category, eight of them in a colour or pattern that the learned prior was never
shown (marked *). Runs each with the default configuration, scores the mesh after the hand-off and
after the fine stage, writes a table into RESULTS.md and a contact sheet into docs/images/. Runs and
their scores are kept in `runs/known-answer/`, so a second call goes on where the first one stopped;
`--part 0/2` and `--part 1/2` share the captions between two processes, a third call tabulates;
`--seeds 2` makes two runs of each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from continuation import continued, sheet
from continuation import report as report_continued
from kept import begun, failing_in_one_line, kept
from pictured import pictured
from recognition import recognised
from results import save_sheet, table, write_section

from maquette.coarse.train import run_coarse
from maquette.common.begin import Choices
from maquette.common.config.priors import PriorConfig
from maquette.common.embedded.door import load
from maquette.common.embedded.vocabulary import is_held_out
from maquette.common.errors import UserError
from maquette.common.runs.folder import Run, open_run, slug
from maquette.common.scene.cameras import orbit
from maquette.common.toybox.grammar import parse
from maquette.common.toybox.objects import build
from maquette.common.toybox.recognize import LOOKS, janus_views, nearest_category, nearest_color
from maquette.common.toybox.score import NEUTRAL, Scores, unlit_views
from maquette.common.toybox.studio import albedo_views
from maquette.fine.evaluate import evaluate_run, textured
from maquette.fine.train import load_finished, run_fine

SHOWN = 12
PICTURES = 8
"""Toys of held-out captions that the prior is shown a picture of, and as many others."""
CAPTIONS = (
    "a red mushroom", "a blue chair", "a yellow duck", "a green cactus",
    "a purple mug", "an orange cat", "a teal car", "a pink house",
    "a white rocket", "a striped red and white fish", "a dotted blue teapot",
    "a checkered green turtle",
    "a white robot", "a green truck", "a purple penguin", "an orange sofa",
    "a dotted teal and white owl", "a checkered brown dog", "a black boat",
    "a red airplane", "a brown bear", "a blue birdhouse", "a striped red and white castle",
    "a pink cupcake", "a purple elephant", "a brown ice cream", "a yellow lamp", "a black rabbit",
    "a white snowman", "a checkered brown table", "a green train", "a green tree",
)  # fmt: skip
"""The first `SHOWN` are those of the README's picture."""
PRIORS = {
    "exact": Choices(prior="exact"),
    "toybox": Choices(prior="toybox"),
    "blind": Choices("blind"),
}


@dataclass(frozen=True)
class Answer:
    """What is said of one run: scores by stage, what it would be taken for, what it took."""

    caption: str
    handoff: Scores
    fine: Scores
    category: str
    color: str
    janus: int
    seconds: float
    seed: int = 0

    @property
    def patterned(self) -> bool:
        """Whether the caption names a pattern."""
        return parse(self.caption).pattern is not None

    @property
    def right(self) -> bool:
        """Whether the mesh would be taken for the caption's object and colour."""
        caption = parse(self.caption)
        return (self.category, self.color) == (caption.category, caption.color)

    @property
    def held_out(self) -> bool:
        """Whether the learned prior was never shown the caption."""
        return is_held_out(parse(self.caption))


def main() -> None:
    """Run, score, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prior", default="toybox", help="exact, toybox, blind, or a folder")
    parser.add_argument("--limit", type=int, default=len(CAPTIONS), help="first captions only")
    parser.add_argument("--part", default="0/1", help="every n-th caption from the k-th on: k/n")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each caption")
    parser.add_argument("--runs", type=Path, default=Path("runs/known-answer"))
    parser.add_argument(
        "--words",
        type=Path,
        default=Path("runs/known-answer"),
        help="with --mesh: runs of the captions alone, to compare with",
    )
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--image", action="store_true", help="the prior alone, shown a picture")
    parser.add_argument("--mesh", action="store_true", help="with --image: whole runs")
    parser.add_argument("--tilt", help="with --mesh: degrees the elevation is told wrong, or auto")
    parser.add_argument("--found", action="store_true", help="with --image: what it is taken for")
    options = parser.parse_args()
    if options.image and options.found:
        with failing_in_one_line(options.prior):
            recognised(
                load(asked(options.prior, "toybox-pixel")), pictured_captions(), options.limit
            )
        return
    if options.image and options.mesh:
        pictured(pictured_captions(), options)
        return
    if options.image:
        continue_pictures(options)
        return
    first, step = map(int, options.part.split("/"))
    captions = CAPTIONS[first : options.limit : step]
    answers = [answer(c, s, options) for s in range(options.seeds) for c in captions]
    body = report(answers)
    print(body)
    whole = options.limit >= len(CAPTIONS) and step == 1
    if not whole or options.settings or options.prior not in PRIORS:
        return
    sheet = torch.cat([row(folder_of(c, 0, options)) for c in CAPTIONS])
    save_sheet(sheet, Path("docs/images") / f"known_answer-{options.prior}.png", columns=12)
    write_section(f"known_answer.py --prior {options.prior}", body)


def continue_pictures(options: argparse.Namespace) -> None:
    """What the prior alone makes of pictures of toys: a table, and a sheet in docs/images/."""
    captions = pictured_captions()
    embedded = options.prior == "toybox"
    with failing_in_one_line(options.prior):
        prior = load(asked(options.prior, "toybox-latent"))
        if not prior.takes_reference:
            raise UserError("this prior takes no picture")
    found = continued(prior, captions)
    body = report_continued(found)
    print(body)
    if embedded:
        sheet(found, Path("docs/images/prior-pictures.png"))
        write_section("known_answer.py --image", body)


def asked(prior: str, embedded: str) -> PriorConfig:
    """The prior that is asked by itself: of the toybox's two the `embedded` one."""
    return PriorConfig(name=embedded if prior == "toybox" else prior)


def pictured_captions() -> list[str]:
    """The captions of the toys that are shown, those never shown in training first."""
    hidden = [caption for caption in CAPTIONS if is_held_out(parse(caption))]
    seen = [caption for caption in CAPTIONS if caption not in hidden]
    return [*hidden[:PICTURES], *seen[:PICTURES]]


def folder_of(caption: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a caption's run lies."""
    name = Path(options.prior).name + (f"-{seed}" if seed else "")
    return options.runs / name / slug(caption)


def answer(caption: str, seed: int, options: argparse.Namespace) -> Answer:
    """The scores of a caption's run of one seed, which is made if it isn't there."""

    def make() -> dict[str, Any]:
        began = time.perf_counter()
        finish(run)
        made = judged(run, time.perf_counter() - began)
        print(" | ".join(cells(made)), flush=True)
        return asdict(made)

    with failing_in_one_line(caption):
        run = opened(caption, seed, options)
        said = kept(run, make)
    scores = {stage: Scores(**said[stage]) for stage in ("handoff", "fine")}
    return Answer(**{**said, **scores})


def finished_run(caption: str, options: argparse.Namespace) -> Run:
    """The finished coarse and fine stages of a caption, seed 0."""
    with failing_in_one_line(caption):
        return finish(opened(caption, 0, options))


def opened(caption: str, seed: int, options: argparse.Namespace) -> Run:
    """The run of a caption, begun now or before."""
    chosen = PRIORS.get(options.prior, Choices(prior=options.prior))
    choices = replace(chosen, settings=options.settings, seed=seed or None)
    return begun(caption, folder_of(caption, seed, options), choices)


def finish(run: Run) -> Run:
    """Both stages, from where they were left."""
    run_coarse(run)
    run_fine(run)
    return run


def judged(run: Run, seconds: float) -> Answer:
    """Everything there is to say of a finished run."""
    caption = parse(run.config.prompt)
    model = textured(load_finished(run))
    return Answer(
        caption=run.config.prompt,
        handoff=evaluate_run(run, "handoff"),
        fine=evaluate_run(run),
        category=nearest_category(model),
        color=nearest_color(model, caption),
        janus=janus_views(model, build(caption)),
        seconds=seconds,
        seed=run.config.seed,
    )


def report(answers: Sequence[Answer]) -> str:
    """The table of answers, the means, and what they say against the aims."""
    header = [
        "caption", "F hand-off", "F", "Chamfer", "IoU hand-off", "IoU", "PSNR hand-off", "PSNR",
        "taken for", "Janus", "seconds",
    ]  # fmt: skip
    seen = [a for a in answers if not a.held_out]
    hidden = [a for a in answers if a.held_out]
    patterned = [a for a in answers if a.patterned]
    rows = [cells(a) for a in answers]
    groups = {"seen": seen, "held out (*)": hidden, "patterned": patterned}
    seeds = sorted({a.seed for a in answers})
    if len(seeds) > 1:
        groups |= {f"seed {seed}": [a for a in answers if a.seed == seed] for seed in seeds}
    for name, group in {**groups, "all": answers}.items():
        if group:
            rows.append([f"**{name}**", *means(group)])
    lowest = min(answers, key=lambda a: a.fine.f_score)
    return (
        f"F-score at 0.03, Chamfer distance (the object's radius is 0.9), silhouette IoU and unlit "
        f"PSNR (dB) over 24 views; the category and colour that are the mesh's nearest, a tick if "
        f"both are the caption's; of {LOOKS} cameras behind, how many see what looks more like "
        f"the front. Seconds of both stages, where other processes may have shared the cores.\n\n"
        f"{table(header, rows)}\n\nLowest F-score: {lowest.fine.f_score:.3f} ({lowest.caption})."
    )


def cells(made: Answer) -> list[str]:
    """One row of the table."""
    first, last = made.handoff, made.fine
    taken = "✓" if made.right else f"{made.color} {made.category}"
    seed = f", seed {made.seed}" if made.seed else ""
    return [
        f"{made.caption}{' *' if made.held_out else ''}{seed}",
        f"{first.f_score:.3f}", f"{last.f_score:.3f}", f"{last.chamfer:.4f}",
        f"{first.iou:.3f}", f"{last.iou:.3f}", f"{first.psnr:.1f}", f"{last.psnr:.1f}",
        taken, str(made.janus), f"{made.seconds:.0f}",
    ]  # fmt: skip


def means(answers: Sequence[Answer]) -> list[str]:
    """The cells of a row of means: of the scores, the share that is right, all Janus views."""

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    first = [a.handoff for a in answers]
    last = [a.fine for a in answers]
    return [
        f"{mean([s.f_score for s in first]):.3f}", f"{mean([s.f_score for s in last]):.3f}",
        f"{mean([s.chamfer for s in last]):.4f}",
        f"{mean([s.iou for s in first]):.3f}", f"{mean([s.iou for s in last]):.3f}",
        f"{mean([s.psnr for s in first]):.1f}", f"{mean([s.psnr for s in last]):.1f}",
        f"{sum(a.right for a in answers)}/{len(answers)}", str(sum(a.janus for a in answers)),
        f"{mean([a.seconds for a in answers]):.0f}",
    ]  # fmt: skip


def row(folder: Path) -> torch.Tensor:
    """Three views of what came out, then the same of the truth: `[6, H, H, 3]`."""
    run = open_run(str(folder))
    cameras = orbit(8)[torch.tensor([1, 3, 6])]
    found, _ = unlit_views(textured(load_finished(run)), cameras, 112)
    true, _ = albedo_views(build(run.config.prompt), cameras, 112, NEUTRAL)
    return torch.cat([found, true])


if __name__ == "__main__":
    main()

"""When a stage has failed, by written rules, and what is done about it.

Rules (each told in its line):
    not finite   the loss, a number shown, or a gradient is NaN or infinite
    empty        for `PATIENCE` steps on end less than `EMPTY` of the views' pixels are covered
    full         for as long more than `FULL` of them are
    flat         for as long the views' colours spread less than `FLAT` about their mean
    standing     for as long the loss is the same to `STILL` of itself
    many fronts  at its end its prior takes views from behind for the front (`guidance.faces`)
All but the first are looked for from `GRACE` of the stage on: every scene begins as fog.

Answers (`--on-failure`): `auto` tells of many fronts and goes on, for there is a mesh and the prior
may be wrong, and stops at the others; `stop` ends in one line; `retry` goes back to the last
checkpoint with half the learning rate where a number was not finite, `SLOWER_TIMES` at most, and
otherwise, or after that, begins the stage again with the next seed, `SEEDS` at most; `tell` says so
once and goes on where it can: a number that is not finite, and a scene without a surface, end the
run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..files import read_text, write_whole
from .folder import Run, rewritten
from .history import read_events

Kind = Literal["not finite", "empty", "full", "flat", "standing", "many fronts"]
OnFailure = Literal["auto", "stop", "retry", "tell"]
PATIENCE, GRACE = 25, 0.5
EMPTY, FULL, FLAT, STILL = 0.002, 0.998, 1e-3, 1e-7
COVERED = 0.5  # opacity from which a pixel counts as covered
SLOWER, SLOWER_TIMES, SEEDS = 0.5, 3, 3
RATE_FILE = "rate.json"


class FailedError(UserError):
    """A stage has failed by one of the rules: the user's to mend, or the chosen answer's."""

    def __init__(self, kind: Kind, stage: str, step: int, wrong: str, advice: str) -> None:
        """step: of which the rule told it, from 1. wrong, advice: the two halves of its line."""
        super().__init__(f"{wrong}; {advice}")
        self.kind: Kind = kind
        self.stage, self.step, self.wrong = stage, step, wrong

    @staticmethod
    def not_finite(stage: str, step: int, what: str) -> FailedError:
        """Because `what` is NaN or infinite at a step."""
        return FailedError(
            "not finite",
            stage,
            step,
            f"the {stage} stage's {what} is not finite at step {step}",
            "its last checkpoint is kept: resume with --on-failure retry, or begin a run with a "
            f"lower --set {stage}.optimizer.learning_rate",
        )


@dataclass
class Watch:
    """Looks at a stage step by step; raises `FailedError` when a rule tells that it has failed.

    total: the stage's steps. seed: of the run, for the advice. tell: is told of a failure, once of
    each kind, in place of raising it; it may raise it itself.
    """

    stage: str
    total: int
    seed: int
    tell: Callable[[FailedError], None] | None = None
    _since: dict[Kind, int] = field(default_factory=dict)
    _told: set[Kind] = field(default_factory=set)
    _loss: float = math.nan

    def look(self, step: int, loss: float, image: Tensor, opacity: Tensor | None) -> None:
        """See step `step`, from 0.

        loss: its value. image: its views `[B, H, W, 3]`. opacity: theirs `[B, H, W]`, if known.
        """
        if step < GRACE * self.total:
            return
        signs: dict[Kind, bool] = {}
        with torch.no_grad():
            if opacity is not None:
                share = float((opacity.detach() > COVERED).float().mean())
                signs |= {"empty": share < EMPTY, "full": share > FULL}
            spread = image.detach().flatten(0, 2).std(dim=0).max()
            signs["flat"] = float(spread) < FLAT
        signs["standing"] = abs(loss - self._loss) <= STILL * abs(self._loss)
        self._loss = loss
        for kind, there in signs.items():
            self._since[kind] = self._since.get(kind, 0) + 1 if there else 0
        for kind in signs:
            if self._since[kind] >= PATIENCE:
                self.failed(kind, step + 1)

    def failed(self, kind: Kind, step: int, what: str | None = None) -> None:
        """Raise that a rule has told a failure at `step`, from 1, or tell of it.

        what: is wrong, if the rule's own words aren't enough.
        """
        words, hint = _WORDS[kind]
        error = FailedError(
            kind,
            self.stage,
            step,
            f"the {self.stage} stage has failed: {what or words + _LONG}, at step {step}",
            f"begin again with another seed (--seed {self.seed + 1}){hint}, or resume with "
            "--on-failure retry",
        )
        if self.tell is None:
            raise error
        if kind not in self._told:
            self._told.add(kind)
            self.tell(error)


_LONG = f" for {PATIENCE} steps"
_WORDS: Mapping[Kind, tuple[str, str]] = {
    "empty": ("the scene is empty", " or a lower coarse.losses.opacity"),
    "full": ("the scene fills every view", " or a higher coarse.losses.opacity"),
    "flat": ("all views are one flat colour", ""),
    "standing": ("the loss stands still", " or a higher optimizer.learning_rate"),
    "many fronts": ("there are many fronts", " or go on with --on-failure tell"),
}


def record(run: Run, failed: FailedError) -> None:
    """Keep a failure in the run's events, for its report."""
    run.event("failed", stage=failed.stage, kind=failed.kind, step=failed.step, message=str(failed))


def teller(run: Run, on_failure: OnFailure) -> Callable[[FailedError], None] | None:
    """What a `Watch` of the run tells of failures in place of raising them, as the answer is."""
    if on_failure not in ("auto", "tell"):
        return None

    def tell(failed: FailedError) -> None:
        if on_failure == "auto" and failed.kind != "many fronts":
            raise failed
        record(run, failed)
        why = ", as --on-failure tell asks" if on_failure == "tell" else ": look at its pictures"
        run.warn(f"{failed.wrong}; going on{why}")

    return tell


def failures(run: Run) -> list[str]:
    """The failures that a run has recorded, as lines, oldest first."""
    events = read_events(run.folder)
    return [str(each.get("message", "")) for each in events if each["event"] == "failed"]


def fronts(run: Run) -> dict[str, str]:
    """What its prior last took a run's views from behind for: a line for each stage that asked."""
    events = [each for each in read_events(run.folder) if each["event"] == "seen from behind"]
    return {str(each.get("stage", "")): str(each.get("message", "")) for each in events}


def next_seed(run: Run) -> Run:
    """The same run with the next seed, in its configuration file too: its stages begin anew."""
    config = run.config.model_copy(update={"seed": run.config.seed + 1})
    return rewritten(run, config, "next seed", seed=config.seed)


def rate_scale(folder: Path) -> float:
    """By what a stage's learning rates are multiplied since it was made slower; 1 at first."""
    try:
        scale = json.loads(read_text(folder / RATE_FILE, 1000))["scale"]
    except (OSError, ValueError, KeyError, TypeError):
        return 1.0
    return float(scale) if isinstance(scale, float) and 0.0 < scale <= 1.0 else 1.0


def slower(folder: Path) -> float | None:
    """Halve a stage's learning rates for good; None once that was done as often as it may be."""
    scale = rate_scale(folder) * SLOWER
    if scale < SLOWER**SLOWER_TIMES:
        return None
    write_whole(folder / RATE_FILE, json.dumps({"scale": scale}) + "\n")
    return scale

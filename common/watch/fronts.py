"""Looking on for many fronts while a stage grows: told in time, and a failure at its end."""

from __future__ import annotations

import math

import torch

from ..guidance.fronts import VIEWS, count_fronts
from ..guidance.judges import Panel
from ..guidance.score import ScoreDistillation
from ..runs.failure import Watch
from ..runs.folder import Run
from ..runs.progress import say
from .looks import Subject

EARLY = 0.75
"""Share of a stage after which it is looked at for the first time; the second is its end."""


class FrontWatch:
    """Asks the prior among a stage's judges how many fronts there are, twice in a stage.

    It draws no random numbers of the run and changes nothing.
    """

    def __init__(self, run: Run, subject: Subject, judges: Panel, watch: Watch) -> None:
        """watch: of the stage, to which a failure is brought."""
        self._run, self._subject, self._watch = run, subject, watch
        first = judges.judges.get("prior")
        self._judge = first[0] if first and isinstance(first[0], ScoreDistillation) else None
        self._early = math.ceil(EARLY * watch.total)

    def look(self, index: int) -> None:
        """See what step `index`, from 0, has made, if it is time for it."""
        step, watch = index + 1, self._watch
        if self._judge is None or step not in (self._early, watch.total):
            return
        with torch.no_grad(), torch.random.fork_rng([]):
            views = self._subject.judged(VIEWS, index)
            if views.surface is not None:
                return  # the shape is decided, and a prior that is told it knows the side by that
            found = count_fronts(self._judge, views, index)
        self._run.event(
            "fronts", stage=watch.stage, step=step, fronts=found.fronts, message=str(found)
        )
        if found.many and step == watch.total:
            watch.failed("many fronts", step, str(found))
        say(f"{watch.stage} at step {step}: {found}", important=found.many)

"""The best of several short starts: which of them the prior tells front and back apart in.

Where a face grows is decided within the first steps, from the noise they draw. So the stage begins
several times with seeds in a row, a few steps each, the prior says in which of them front and back
look most like themselves (`guidance.faces.told_apart`), and that one goes on, as if the run had
been begun with its seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common import ranks
from ..common.config.models import StartsConfig
from ..common.runs.checkpoints import random_state, steps_on_disk, write_checkpoint
from ..common.runs.folder import Run
from ..common.runs.loop import NotFiniteError, Trainable
from ..common.runs.progress import say

EVENT = "starts"


@dataclass(frozen=True)
class Start:
    """A scene that begins.

    state: what a checkpoint of it holds. step: takes step `i`. score: how good it is by now, the
    larger the better; it draws no random numbers.
    """

    state: Trainable
    step: Callable[[int], object]
    score: Callable[[], float]


def begin_with_the_best(run: Run, config: StartsConfig, begin: Callable[[], Start]) -> None:
    """Take the short starts of a coarse stage that has none yet, and keep the best as a checkpoint.

    begin: makes a scene anew from torch's random numbers. Start k is what the seed `run.seed + k`
    begins with. One whose numbers are not finite counts as the worst. It is all done again if it is
    cut off, with the same end.
    """
    if config.count == 1 or steps_on_disk(run.coarse):
        return
    scores: list[float] = []
    best: dict[str, Tensor] = {}
    for k in range(config.count):
        torch.manual_seed(run.config.seed + k)
        start = begin()
        scores.append(ranks.told(_taken(start, config.steps)))
        if scores[-1] == max(scores) and math.isfinite(scores[-1]):
            state = start.state.tensors() | random_state()
            best = {name: value.detach().clone() for name, value in state.items()}
        say(f"start {k + 1} of {config.count}: seed {run.config.seed + k}, {scores[-1]:+.4f}")
    chosen = scores.index(max(scores))
    if best and ranks.now().first:
        run.coarse.mkdir(parents=True, exist_ok=True)
        write_checkpoint(run.coarse, config.steps, best)
    finite = [round(value, 6) if math.isfinite(value) else None for value in scores]
    run.event(EVENT, scores=finite, chosen=chosen, steps=config.steps)
    torch.manual_seed(run.config.seed)


def _taken(start: Start, steps: int) -> float:
    """The score of a start after its steps."""
    try:
        for index in range(steps):
            start.step(index)
        with torch.no_grad(), torch.random.fork_rng([]):
            return start.score()
    except NotFiniteError:
        return -math.inf

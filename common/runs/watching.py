"""How a run is watched: what is told of it, how often it is pictured. No result depends on it.

That is why it is no part of a run's configuration: the same run may be watched in another way when
it is resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Output = Literal["people", "quiet", "json"]
Log = Literal["auto", "tensorboard", "wandb", "none"]


@dataclass(frozen=True)
class Watching:
    """What the command line asks for.

    output: progress for people, results and warnings alone, or one JSON object a line on standard
    output. verbose: every recorded event is told as well. previews: pictures a stage, at most;
    share: of a stage's time that they may take, in [0, 1]. films: whether turntables and the film
    of the growth are made. log: where numbers and pictures go beside the run's folder; `auto` is
    TensorBoard where it is installed.
    """

    output: Output = "people"
    verbose: bool = False
    previews: int = 20
    share: float = 0.01
    films: bool = True
    log: Log = "auto"


_chosen = Watching()


def watching() -> Watching:
    """What was chosen for this process."""
    return _chosen


def choose(watched: Watching) -> None:
    """Choose it for this process."""
    global _chosen
    _chosen = watched

"""What a run says of itself before it begins: where, what, with whom, and what comes but once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..config.models import RunConfig
from ..options import values_of
from .folder import Run
from .progress import preface
from .stage import STAGES, Stage

COMPILED = "about 20 s"
"""What numba takes for all that it compiles, measured on the two cores of the README's figures."""
_PACKAGE = Path(__file__).resolve().parents[2]


def announce(run: Run, stages: Sequence[Stage] = STAGES, exported: bool = True) -> None:
    """Tell what is about to happen, in a few lines, as soon as the first of it begins."""
    names = [stage.name for stage in stages] + (["export"] if exported else [])
    preface(lines(run, stages, exported), names)


def lines(run: Run, stages: Sequence[Stage], exported: bool) -> list[str]:
    """The folder, the stages, the judges and, if it is still to come, the compilation."""
    config = run.config
    told = [f"run: {run.folder}  (seed {config.seed}, device {config.device})"]
    names = [
        f"{stage.name}, {stage.config(config).steps} steps at {stage.config(config).resolution} px"
        for stage in stages
    ]
    names += ["export"] if exported else []
    count = len(names)
    numbered = [f"{number} of {count} {name}" for number, name in enumerate(names, start=1)]
    told.append(f"stages: {'; '.join(numbered)}")
    told += _judges(config, stages)
    if not compiled():
        told.append(f"compiling for this processor (first run only, {COMPILED})")
    return told


def _judges(config: RunConfig, stages: Sequence[Stage]) -> list[str]:
    """A line for both stages, where both have the same, or one each."""
    told = {stage.name: judge(config, stage) for stage in stages}
    if len(set(told.values())) == 1:
        return [f"prior: {next(iter(told.values()))}"]
    return [f"prior, {name} stage: {words}" for name, words in told.items()]


def judge(config: RunConfig, stage: Stage) -> str:
    """One stage's prior and its settings in a few words, such as "sd15, sds, guidance 100"."""
    chosen = stage.config(config)
    words = []
    if any(values_of(chosen.judges.prior)):
        scales = values_of(chosen.distillation.guidance_scale)
        scale = " to ".join(f"{value:g}" for value in dict.fromkeys((scales[0], scales[-1])))
        words += [chosen.prior.name, chosen.distillation.loss, f"guidance {scale}"]
    if any(values_of(chosen.judges.clip)):
        words.append(f"CLIP {chosen.clip.model}")
    return ", ".join([*words, f"{chosen.views} views a step"])


def compiled() -> bool:
    """Whether numba has kept what it compiled before, where it keeps it."""
    kept = os.environ.get("NUMBA_CACHE_DIR")
    place = Path(kept) if kept else _PACKAGE
    return next(place.rglob("*.nbi"), None) is not None

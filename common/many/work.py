"""One job from beginning to end in this process: begun, gone on with, or found finished."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass

from ..begin import begin
from ..embedded.door import keep_priors
from ..errors import UserError
from ..files import sole_writer
from ..runs.announce import announce
from ..runs.watching import Watching, choose
from .jobs import Job


@dataclass(frozen=True)
class Outcome:
    """How a job ended. error: in one line, None if it is finished. again: whether a further try may
    help: it may not where the user has to mend something.
    """

    seconds: float
    error: str | None = None
    again: bool = False


def finished(job: Job) -> bool:
    """Whether a job's files are there."""
    return (job.folder / "export" / "report.json").is_file()


def work(job: Job, watched: Watching) -> Outcome:
    """Make a job's run, going on from its last checkpoint. Nothing is raised but what ends us."""
    began = time.monotonic()
    choose(watched)
    try:
        from ...coarse.train import run_coarse
        from ...fine.deliver import finish_export
        from ...fine.train import run_fine

        run = begin(job.prompt, job.choices)
        announce(run)
        with sole_writer(run.folder):
            run_coarse(run)
            run_fine(run)
            finish_export(run)
    except UserError as error:
        return Outcome(_since(began), str(error))
    except Exception as error:
        traceback.print_exc()  # into the worker's log
        line = " ".join(str(error).split()) or type(error).__name__
        return Outcome(_since(began), f"{type(error).__name__}: {line}"[:500], again=True)
    return Outcome(_since(began))


def ready(threads: int) -> None:
    """Make this process a worker of many jobs: its threads, and priors that stay loaded."""
    import torch

    torch.set_num_threads(threads)
    keep_priors()


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)

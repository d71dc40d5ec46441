"""A batch from its jobs to its report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import sole_writer
from ..runs.progress import result, say
from .jobs import Job
from .pool import open_ray, run_jobs
from .report import telling, write_report
from .resources import Ask
from .work import Outcome, finished


def run_batch(
    jobs: Sequence[Job], root: Path, ask: Ask, address: str | None = None, retries: int = 2
) -> int:
    """Make all runs that aren't finished, write the report, print its paths; how many failed."""
    began = time.monotonic()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {root} ({error.strerror}); give another --out") from None
    left = sum(not finished(job) for job in jobs)
    absolute = [job.absolute() for job in jobs]  # a worker's own folder is another one
    with sole_writer(root), telling() as tell:
        if left == 0:
            found, workers = run_jobs(absolute, _Nobody(), tell), 0
        else:
            hands = open_ray(left, ask, address)
            workers = hands.share.workers
            say(f"batch: {len(jobs)} jobs, {left} to do, {workers} workers, runs in {root}")
            try:
                found = run_jobs(absolute, hands, tell, retries)
            except KeyboardInterrupt:
                say("stopped; the same command goes on where it stopped")
                raise
            finally:
                hands.ray.shutdown()
        for path in write_report(root, found, began, workers):
            result(path)
    return sum(each.state == "failed" for each in found)


class _Nobody:
    """Hands for a batch in which nothing is left to do."""

    def start(self, job: Job) -> object:
        raise AssertionError(job)

    def idle(self) -> int:
        return 0

    def ended(self, wait: float) -> list[tuple[object, Outcome | None]]:
        return []

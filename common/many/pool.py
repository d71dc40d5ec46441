"""A batch over Ray's workers: skipping, resuming, trying again; and what is told meanwhile.

A worker is an actor: it lives for many jobs and keeps the priors it has loaded. When one dies, its
job goes back to the others and goes on from its last checkpoint, which lies in the run's folder.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

from ..errors import UserError
from ..runs.progress import say
from ..runs.watching import watching
from .jobs import Job
from .resources import Ask, Share, shared, this_machine
from .work import Outcome, finished

STARTS = 4
"""How often Ray's start is tried on this machine."""
State = Literal["waiting", "running", "finished", "failed"]


@dataclass
class Progress:
    """One job of a batch. tries: how often it was begun. seconds: of the try that finished it."""

    job: Job
    state: State = "waiting"
    tries: int = 0
    seconds: float = 0.0
    error: str | None = None
    skipped: bool = False


Tell = Callable[[Sequence[Progress]], None]


class Hands(Protocol):
    """What takes jobs: Ray's actors, or something simpler in tests."""

    def start(self, job: Job) -> object:
        """Begin a job on an idle worker; a ticket for it."""
        ...

    def idle(self) -> int:
        """How many jobs could be begun now."""
        ...

    def ended(self, wait: float) -> list[tuple[object, Outcome | None]]:
        """Tickets that have ended after at most so many seconds; None if the worker is dead."""
        ...


def run_jobs(jobs: Sequence[Job], hands: Hands, tell: Tell, retries: int = 2) -> list[Progress]:
    """Do all jobs, each at most `retries` times more than once; in the order given."""
    found = [Progress(job) for job in jobs]
    for each in found:
        if finished(each.job):
            each.state, each.skipped = "finished", True
    todo = deque(each for each in found if each.state == "waiting")
    busy: dict[object, Progress] = {}
    tell(found)
    while todo or busy:
        while todo and hands.idle() > 0:
            each = todo.popleft()
            each.state, each.tries = "running", each.tries + 1
            busy[hands.start(each.job)] = each
            tell(found)
        for ticket, outcome in hands.ended(1.0):
            each = busy.pop(ticket)
            outcome = outcome or Outcome(0.0, "its worker died", again=True)
            _ended(each, outcome, retries, todo)
        tell(found)
    return found


def _ended(each: Progress, outcome: Outcome, retries: int, todo: deque[Progress]) -> None:
    each.error = outcome.error
    if outcome.error is None:
        each.state, each.seconds = "finished", outcome.seconds
    elif outcome.again and each.tries <= retries:
        each.state = "waiting"
        todo.append(each)
    else:
        each.state = "failed"


@dataclass
class RayHands:
    """Ray's actors, one a worker; a dead one is replaced."""

    ray: Any
    share: Share
    worker: Any
    _free: deque[Any] = field(default_factory=deque)
    _busy: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for _ in range(self.share.workers):
            self._hire()

    def _hire(self) -> None:
        self._free.append(self.worker.remote(max(1, int(self.share.cpus))))

    def start(self, job: Job) -> object:
        actor = self._free.popleft()
        # A worker tells nothing while it works; what is pictured and logged is as was asked for.
        watched = replace(watching(), output="quiet", verbose=False)
        ticket = actor.work.remote(job.as_data(), asdict(watched))
        self._busy[ticket] = actor
        return ticket

    def idle(self) -> int:
        return len(self._free)

    def ended(self, wait: float) -> list[tuple[object, Outcome | None]]:
        if not self._busy:
            return []
        done, _ = self.ray.wait(list(self._busy), num_returns=1, timeout=wait)
        found: list[tuple[object, Outcome | None]] = []
        for ticket in done:
            actor = self._busy.pop(ticket)
            try:
                found.append((ticket, Outcome(**self.ray.get(ticket))))
                self._free.append(actor)
            except self.ray.exceptions.RayError:
                found.append((ticket, None))
                self._hire()
        return found


def open_ray(jobs: int, ask: Ask, address: str | None = None) -> RayHands:
    """Workers of this machine alone, or of the cluster at an address (`auto`, `ray://HOST:PORT`).

    Raises UserError where Ray isn't installed, the address doesn't answer, or more is asked for
    than there is.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's workers give way to everything else, and on a machine that is busy they stand still.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError:
        raise UserError(
            "batch needs Ray, which isn't installed: pip install 'maquette[ray]'"
        ) from None
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        machine = this_machine(_gpus_here())
        share = shared(machine, jobs, ask)
        _start_here(ray, num_cpus=machine.cpus, num_gpus=machine.gpus, **quiet)
    else:
        share = Share(ask.workers or jobs, ask.cpus or 1.0, ask.gpus or 0.0, ask.memory or 0.0)
        share = Share(min(share.workers, jobs), share.cpus, share.gpus, share.memory)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            line = " ".join(str(error).split())[:200]
            raise UserError(f"no Ray cluster answers at {address} ({line})") from None
    return RayHands(ray, share, _actor_class(ray, share))


def _start_here(ray: Any, **options: Any) -> None:
    """Ray on this machine alone; on a busy one its start is given up too soon, so it gets more."""
    for left in reversed(range(STARTS)):
        try:
            ray.init(include_dashboard=False, object_store_memory=128 << 20, **options)
            return
        except Exception as error:  # Ray raises it bare
            ray.shutdown()
            line = " ".join(str(error).split())[:200]
            if left == 0:
                raise UserError(f"Ray doesn't start on this machine ({line})") from None
            say(f"Ray doesn't start yet ({line}); trying again")


def _actor_class(ray: Any, share: Share) -> Any:
    threads = str(max(1, int(share.cpus)))
    environment = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}

    @ray.remote(
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        memory=int(share.memory * 2**30) or None,
        max_restarts=0,
        runtime_env={"env_vars": environment},
    )
    class Worker:
        """A process that works through jobs and keeps its priors."""

        def __init__(self, threads: int) -> None:
            from maquette.common.many.work import ready

            ready(threads)

        def work(self, data: dict[str, Any], watched: dict[str, Any]) -> dict[str, Any]:
            from dataclasses import asdict

            from maquette.common.many.jobs import Job
            from maquette.common.many.work import work
            from maquette.common.runs.watching import Watching

            return asdict(work(Job.of_data(data), Watching(**watched)))

    return Worker


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()

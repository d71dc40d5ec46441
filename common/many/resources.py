"""What a batch may take of a machine: how many workers, and what each job asks for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

JOB_MEMORY = 2.0
"""GiB that a job with the default configuration is given: twice what one was measured to hold."""


@dataclass(frozen=True)
class Machine:
    """cpus: that this process may use. memory: GiB. gpus: cards."""

    cpus: int
    memory: float
    gpus: int = 0


@dataclass(frozen=True)
class Ask:
    """What is asked for on the command line; None leaves it to the machine."""

    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Share:
    """workers: jobs at a time. cpus, gpus, memory (GiB): of each."""

    workers: int
    cpus: float
    gpus: float
    memory: float


def this_machine(gpus: int = 0) -> Machine:
    """The machine that this process runs on."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return Machine(cpus, total_memory(), gpus)


def total_memory() -> float:
    """The machine's memory in GiB; 8 where the system doesn't tell."""
    try:
        text = Path("/proc/meminfo").read_text("ascii")
        found = next(line for line in text.splitlines() if line.startswith("MemTotal:"))
        return int(found.split()[1]) / 2**20
    except (OSError, StopIteration, ValueError, IndexError):
        return 8.0


def shared(machine: Machine, jobs: int, ask: Ask | None = None) -> Share:
    """How a machine is shared among so many jobs: never more than it has.

    A job gets one core at least and `JOB_MEMORY`; cards are divided among the workers as asked.
    Raises UserError for more than the machine has.
    """
    ask = ask or Ask()
    _positive(ask)
    memory = ask.memory if ask.memory is not None else min(JOB_MEMORY, machine.memory)
    each = ask.cpus if ask.cpus is not None else 1.0
    most = max(1, min(jobs, int(machine.cpus // each), int(machine.memory // memory)))
    gpus = ask.gpus if ask.gpus is not None else float(min(1, machine.gpus))
    if gpus > 0.0 and machine.gpus:
        whole = machine.gpus // gpus if gpus >= 1.0 else machine.gpus * int(1.0 / gpus)
        most = max(1, min(most, int(whole)))
    workers = ask.workers if ask.workers is not None else most
    cpus = ask.cpus if ask.cpus is not None else max(1.0, float(machine.cpus // workers))
    found = Share(min(workers, jobs), cpus, gpus, memory)
    for name, wanted, there in (
        ("--cpus", workers * cpus, machine.cpus),
        ("--memory", workers * memory, machine.memory),
        ("--gpus", gpus if gpus >= 1.0 else 0.0, machine.gpus),
    ):
        if wanted > there + 1e-9:
            raise UserError(
                f"{workers} workers ask for {wanted:g} by {name}, this machine has {there:g}; "
                "give fewer --workers or less for each"
            )
    return found


def _positive(ask: Ask) -> None:
    for name in ("workers", "cpus", "memory"):
        value = getattr(ask, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name}: expected more than 0, got {value:g}")
    if ask.gpus is not None and (ask.gpus < 0 or (ask.gpus > 1 and ask.gpus % 1)):
        raise UserError(f"--gpus: expected a part of one card or whole ones, got {ask.gpus:g}")

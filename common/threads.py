"""How many threads to compute with, settled before torch and numba are loaded.

Both libraries read the environment once, as they load. Threads that wait do so asleep
(`OMP_WAIT_POLICY`): on a machine that others use too, spinning ones keep the working ones from
their cores (`benchmarks/threads.py`).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import MutableMapping
from pathlib import Path

from .errors import UserError, shown

COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
MOST = 1024
LEAST_ADDRESSES = 3 * 2**29
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_LOOK = 0.1  # seconds over which other programs' work is measured
_TICK = 100.0  # of /proc/stat, a second


def settle(wanted: int | None, environment: MutableMapping[str, str] | None = None) -> int | None:
    """Put the number of threads, and how they wait, into the environment; returns the number.

    wanted: what the user asked for, or what a run began with: sums in another number of parts
    round another way. None takes what the environment says, or else what the container grants where
    that is less than the cores there are; then None is returned where the libraries decide, who
    take every core that they may use. Raises UserError for a number that is none.
    """
    environment = os.environ if environment is None else environment
    for name in COUNTS:
        _checked(name, environment.get(name))
    _check_address_space()
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _place_for_compiled_code(environment)
    if wanted is not None:
        if not 1 <= wanted <= MOST:
            raise UserError(f"--threads: expected a number from 1 to {MOST}, got {shown(wanted)}")
        environment.update(dict.fromkeys(COUNTS, str(wanted)))
        return wanted
    if "OMP_NUM_THREADS" in environment:
        # numba reads a variable of its own; who sets the one means both.
        first = environment["OMP_NUM_THREADS"].split(",")[0].strip()
        environment.setdefault("NUMBA_NUM_THREADS", first)
        return None
    granted = allowed_cores()
    if granted >= _cores():
        return None
    for name in COUNTS:
        environment.setdefault(name, str(granted))
    return granted


def _check_address_space() -> None:
    """Raise UserError for a limit (`ulimit -v`) under which the libraries can't even be loaded.

    They end the process then, without a word that could be caught.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESSES:
        raise UserError(
            f"this process may have {limit / 2**30:.1f} GiB of memory addresses (ulimit -v), and "
            f"torch alone takes {LEAST_ADDRESSES / 2**30:.1f}; allow more, such as: ulimit -v "
            "unlimited"
        )


def _place_for_compiled_code(environment: MutableMapping[str, str]) -> None:
    """Give numba a folder that can be written to, where it would find none and stop at once.

    It takes the package's own folder, or the user's cache; an installation of the system and a
    missing or foreign home leave it neither.
    """
    if "NUMBA_CACHE_DIR" in environment:
        return
    home = Path(environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/")) / ".cache")
    nearest = next((p for p in (home, *home.parents) if p.exists()), home)
    if any(os.access(place, os.W_OK) for place in (Path(__file__).parent, nearest)):
        return
    user = os.getuid() if hasattr(os, "getuid") else "user"
    environment["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"maquette-numba-{user}")


def crowding() -> str | None:
    """A line for who computes on a machine that is busy with other work; None if it isn't."""
    cores, busy = allowed_cores(), busy_cores()
    if busy < 0.5 * cores:
        return None
    free = max(1, round(cores - busy))
    hint = f"; --threads {free} may be as fast" if free < cores else ""
    return f"{busy:.1f} of {cores} cores are busy with other work: this takes longer{hint}"


def allowed_cores() -> int:
    """Cores that this process may use: its affinity and its container's limit; at least 1."""
    limit = container_limit()
    return _cores() if limit is None else max(1, min(_cores(), int(limit + 0.5)))


def container_limit(root: Path = _CGROUPS, proc: Path = _PROC) -> float | None:
    """The cores that control groups grant this process, as a number of cores; None for no limit.

    Version 2: `cpu.max` of the group and of all above it; version 1: `cpu.cfs_quota_us`.
    """
    found = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path, *_ = [*line.split(":", 2), "", "", ""]
        if controllers == "":
            place = root / path.lstrip("/")
            for group in (place, *place.parents):
                quota, period, *_ = [*_words(group / "cpu.max"), "", ""]
                found.append(_quota(quota, period))
                if group == root:
                    break
        elif "cpu" in controllers.split(","):
            for group in (root / "cpu" / path.lstrip("/"), root / "cpu"):
                words = (_words(group / f"cpu.cfs_{n}_us") for n in ("quota", "period"))
                found.append(_quota(*("".join(word) for word in words)))
    limits = [limit for limit in found if limit is not None]
    return min(limits, default=None)


def busy_cores(seconds: float = _LOOK) -> float:
    """How many of the cores that this process may use others work on just now; 0 if unknown."""
    before = _work()
    if before is None:
        return 0.0
    time.sleep(seconds)
    after = _work()
    return 0.0 if after is None else max(0.0, (after - before) / _TICK / seconds)


def _cores() -> int:
    """Cores that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work() -> float | None:
    """Ticks that the allowed cores have worked on whatever it was, from /proc/stat."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [line.split() for line in _lines(_PROC / "stat")]
    chosen = [row[1:] for row in rows if row and row[0] in allowed]
    try:  # user, nice, system, idle, iowait, irq, softirq, ...
        return sum(float(v) for row in chosen for i, v in enumerate(row[:7]) if i not in (3, 4))
    except ValueError:
        return None


def _checked(name: str, value: str | None) -> None:
    if value is None:
        return
    parts = value.split(",") if name != "NUMBA_NUM_THREADS" else [value]
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"{name}={value!r} in the environment: expected a number of threads, at least 1; "
            "unset it, or give --threads N"
        )


def _quota(quota: str, period: str) -> float | None:
    try:
        cores = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max", or no such file
    return cores if cores > 0.0 else None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return []

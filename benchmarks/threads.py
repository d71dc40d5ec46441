"""What threads that spin while they wait cost, and save, beside other programs.

    python benchmarks/threads.py [--steps 50]

Times steps of the coarse stage (default configuration, exact prior) in a process of their own,
with `OMP_WAIT_POLICY` PASSIVE and ACTIVE and with one thread or one a core, on an idle machine and
beside one and two busy loops. Writes its section of RESULTS.md; wants a machine to itself.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from results import table, write_section

BUSY = (0, 1, 2)


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many other programs that do nothing but work."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_spin, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def _spin() -> None:
    while True:
        pass


def step_seconds(policy: str, threads: int, steps: int) -> float:
    """Median seconds of ten steps of a coarse stage, from the times of its checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            *(sys.executable, "-m", "maquette.pipeline", "coarse", "a red mushroom"),
            *("--prior", "exact", "--out", str(out), "--device", "cpu", "--threads", str(threads)),
            *("--set", f"coarse.steps={steps}", "--set", "coarse.checkpoint_every=10"),
        ]
        environment = {**os.environ, "OMP_WAIT_POLICY": policy}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        lines = (out / "events.jsonl").read_text("utf-8").splitlines()
    times = [e["time"] for e in map(json.loads, lines) if e["event"] == "checkpoint"]
    return statistics.median(b - a for a, b in itertools.pairwise(times))


def main() -> None:
    """Time, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    rows = []
    for policy in ("PASSIVE", "ACTIVE"):
        for threads in dict.fromkeys((1, cores)):
            row = [f"{policy}, {threads} threads"]
            for count in BUSY:
                with busy_loops(count):
                    row.append(f"{step_seconds(policy, threads, options.steps):.2f}")
            rows.append(row)
            print("  ".join(row), flush=True)
    header = ["threads", *(f"{count} busy loops" for count in BUSY)]
    body = f"Median seconds of ten coarse steps, {cores} cores.\n\n{table(header, rows)}"
    write_section("threads.py", body)


if __name__ == "__main__":
    main()

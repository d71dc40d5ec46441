"""Twelve short jobs on two workers, one worker killed in the middle, and the driver once.

    python benchmarks/many.py [--jobs 12] [--rate]

Checks that all end, that finished ones aren't done again, and that the bits are those of single
runs. With --rate the same jobs are done by one worker and by two, for the ratio. Writes its section
of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from results import table, write_section

from maquette.common.runs.checkpoints import read_tensors
from maquette.common.runs.history import read_events

COLORS = ("red", "blue", "green", "yellow")
THINGS = ("mushroom", "mug", "car")
SHORT = {
    "coarse.steps": 12,
    "coarse.samples": 24,
    "coarse.field.grid.levels": 4,
    "coarse.field.grid.log2_entries": 12,
    "coarse.field.hidden": 16,
    "coarse.field.density_bias": 10.0,
    "coarse.field.density_radius": 0.5,
    "coarse.checkpoint_every": 4,
    "handoff.resolution": 32,
    "handoff.views": 16,
    "handoff.view_resolution": 32,
    "fine.steps": 6,
    "fine.checkpoint_every": 2,
    "fine.views": 1,
    "fine.geometry.resolution": 24,
    "export.faces": 1500,
    "export.texture_size": 128,
}
CORES = "1" if len(psutil.Process().cpu_affinity() or []) > 1 else "0.5"
"""Of each worker; two halves where this process may use one core alone."""
PROGRAM = [sys.executable, "-c", "from maquette.pipeline import main; main()"]


def main() -> None:
    """Kill, go on, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--rate", action="store_true")
    parser.add_argument("--compared", type=int, default=3, help="single runs to compare with")
    options = parser.parse_args()
    prompts = [f"a {c} {t}" for t in THINGS for c in COLORS][: options.jobs]
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        (here / "prompts.txt").write_text("\n".join(prompts) + "\n")
        first = killed(here, len(prompts))
        data, seconds = batch(here, 2)
        rows = data["jobs"]
        assert all(row["state"] == "finished" for row in rows), rows
        assert sum(row["skipped"] for row in rows) >= first
        same = compared(here, prompts[-options.compared :])
        resumed = sum(begun(here, row["job"]) > 1 for row in rows)
        body = (
            f"{len(prompts)} short jobs with the exact prior on two workers of {CORES} core each. "
            f"A worker was killed after {early(len(prompts))} jobs, the driver after {first}; the "
            f"same command again finished the rest in {seconds:.0f} s. All {len(rows)} finished, "
            f"{sum(row['skipped'] for row in rows)} were not done again, {resumed} went on "
            f"from a checkpoint. Bits equal to those of single runs: {same} of {options.compared}."
        )
        if options.rate:
            body += f"\n\n{rate(here, prompts)}"
    print(body)
    write_section("many.py", body)


def command(workers: int, out: str = "out") -> list[str]:
    """A batch's command line."""
    sets = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    sizes = ["--workers", str(workers), "--cpus", CORES, "--out", out, "--device", "cpu"]
    return [*PROGRAM, "batch", "prompts.txt", "--prior", "exact", *sizes, *sets]


def killed(here: Path, count: int) -> int:
    """Kill a worker after a quarter of the jobs and the driver after half; how many were done.

    One at least, and two.
    """
    process = subprocess.Popen(
        command(2), cwd=here, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    done, shot = 0, False
    for line in process.stderr:
        print(line, end="", flush=True)
        done += ": finished" in line
        if done >= early(count) and not shot:
            shot = True
            time.sleep(2.0)  # in the middle of its next job
            a_worker(psutil.Process(process.pid)).kill()
        if done >= max(2, count // 2):
            process.send_signal(signal.SIGKILL)
            break
    process.wait(60)
    return done


def early(count: int) -> int:
    """How many of so many jobs are done when a worker is killed."""
    return max(1, count // 4)


def a_worker(driver: psutil.Process) -> psutil.Process:
    """One of a batch's workers that has a job, as soon as there is one."""
    for _ in range(600):
        for child in driver.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "Worker.work" in " ".join(child.cmdline() or [child.name()]):
                    return child
        time.sleep(0.1)
    raise AssertionError("no worker has a job")


def batch(here: Path, workers: int, out: str = "out") -> tuple[dict, float]:
    """Run a batch to its end; its report and seconds."""
    began = time.perf_counter()
    subprocess.run(command(workers, out), cwd=here, check=True, stdout=subprocess.DEVNULL)
    return json.loads((here / out / "batch.json").read_text()), time.perf_counter() - began


def begun(here: Path, job: str) -> int:
    """How often a job's stages were begun, at most of any stage."""
    stages = [e["stage"] for e in read_events(here / "out" / job) if e["event"] == "stage started"]
    return max((stages.count(stage) for stage in set(stages)), default=0)


def compared(here: Path, prompts: list[str]) -> int:
    """How many of some prompts' single runs have the same bits."""
    sets = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    equal = 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    for number, prompt in enumerate(prompts):
        folder = here / f"single-{number}"
        call = [*PROGRAM, "run", prompt, "--prior", "exact", "--device", "cpu", *sets]
        subprocess.run([*call, "--out", str(folder), "--quiet"], check=True, env=environment)
        files = ("coarse/step-000012.safetensors", "fine/step-000006.safetensors")
        pairs = [
            (read_tensors(folder / n), read_tensors(here / "out" / prompt.replace(" ", "-") / n))
            for n in files
        ]
        equal += all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)
    return equal


def rate(here: Path, prompts: list[str]) -> str:
    """Seconds of the same jobs by one worker and by two."""
    rows = []
    for workers in (1, 2):
        _, seconds = batch(here, workers, f"rate-{workers}")
        rows.append([str(workers), f"{seconds:.0f}", f"{60 * len(prompts) / seconds:.2f}"])
    return table(["workers", "seconds", "jobs a minute"], rows)


if __name__ == "__main__":
    main()

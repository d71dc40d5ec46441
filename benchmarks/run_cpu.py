"""What the default run costs on this machine: seconds a stage and the peak of memory.

    python benchmarks/run_cpu.py [--prompt TEXT] [--prior NAME]

Starts `maquette run` as a user would, in a process of its own and a fresh folder, and watches the
memory of that process and its children. Writes its section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from results import table, write_section

POLL_S = 0.1


def main() -> None:
    """Run, watch, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompt", default="a red mushroom")
    parser.add_argument("--prior", default="toybox")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        program = [sys.executable, "-m", "maquette.pipeline", "run", options.prompt]
        seconds, peak = watch([*program, "--prior", options.prior, "--out", str(out)])
        stages = stage_seconds(out)
    stages["start-up and the rest"] = seconds - sum(stages.values())
    rows = [[name, f"{value:.1f}"] for name, value in stages.items()]
    rows.append(["**all**", f"**{seconds:.1f}**"])
    body = (
        f'`maquette run "{options.prompt}" --prior {options.prior}`, default configuration, '
        f"{os.cpu_count()} cores.\n\n{table(['stage', 'seconds'], rows)}\n\n"
        f"Peak memory, all processes together: {peak / 2**30:.2f} GiB."
    )
    print(body)
    write_section(f"run_cpu.py --prior {options.prior}", body)


def watch(command: list[str]) -> tuple[float, int]:
    """Wall seconds of a command and the peak of its process tree's resident memory, in bytes."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(command)
    root = psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, resident(root))
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return time.perf_counter() - began, peak


def resident(root: psutil.Process) -> int:
    """Resident bytes of a process and its children; shared pages count once a process."""
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # it ended while we looked; the next look is right again
    return total


def stage_seconds(out: Path) -> dict[str, float]:
    """Seconds of each stage, as the run's own events tell them."""
    lines = (out / "events.jsonl").read_text("utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    found: dict[str, float] = {}
    for event in events:
        match event["event"]:
            case "stage finished":
                found[event["stage"]] = event["seconds"]
            case "hand-off":
                found["hand-off"] = event["seconds"]
            case "exported":
                found["export"] = sum(event["seconds"].values())
    order = ("coarse", "hand-off", "fine", "export")
    return {name: found[name] for name in order if name in found}


if __name__ == "__main__":
    main()

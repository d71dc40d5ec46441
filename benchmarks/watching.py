"""What watching a run costs: the default run, watched as by default, against one nobody looks at.

    python benchmarks/watching.py [--prior NAME] [--rounds N]

Runs take turns, and processor time is compared, which other programs disturb less than the clock.
Writes its section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from results import table, write_section

UNWATCHED = ("--previews", "0", "--no-films", "--log", "none", "--quiet")
PROGRAM = (sys.executable, "-m", "maquette.pipeline", "run", "a red mushroom")


def main() -> None:
    """Run in turns, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prior", default="toybox")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"unwatched": [], "watched": []}
    for _ in range(options.rounds):
        for name, more in (("unwatched", UNWATCHED), ("watched", ())):
            found[name].append(cpu_seconds(options.prior, more))
            print(name, f"{found[name][-1]:.1f}", flush=True)
    plain, watched = min(found["unwatched"]), min(found["watched"])
    rows = [[name, f"{min(each):.1f}"] for name, each in found.items()]
    told = f'`maquette run "a red mushroom" --prior {options.prior}`, best of {options.rounds}.'
    more = f"Watched takes {100 * (watched / plain - 1):.1f} % more processor time."
    name = f"watching.py --prior {options.prior}"
    write_section(name, f"{told}\n\n{table(['run', 'processor seconds'], rows)}\n\n{more}")
    print(more)


def cpu_seconds(prior: str, more: tuple[str, ...]) -> float:
    """Processor seconds of a run in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as place:
        out = str(Path(place) / "run")
        subprocess.run([*PROGRAM, "--prior", prior, "--out", out, *more], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

"""What watching a run costs: the default run, watched as by default.

    python benchmarks/watching.py [--prior NAME] [--rounds N]

Within one run: the processor time of everything that looks on (previews, numbers, turntables,
curves, film), over that of all the rest: both suffer alike from programs that share the cores. With
--rounds N also runs that are watched and runs that are not, in turns. Writes its section of
RESULTS.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from results import table, write_section

UNWATCHED = ("--previews", "0", "--no-films", "--log", "none", "--quiet")
PARTS = {
    "previews and numbers": "previews",
    "turntables, posters, strips": "ends",
    "curves and film": "film",
}


def main() -> None:
    """Run, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prior", default="toybox")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--within", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        within(Path(options.within), options.prior)
        return
    name = f"watching.py --prior {options.prior}"
    body = f"{inside(options.prior)}{turns(options.prior, options.rounds)}"
    write_section(name, body)
    print(body)


def inside(prior: str) -> str:
    """What looking on takes within one run."""
    with tempfile.TemporaryDirectory() as place:
        found = Path(place) / "found.json"
        command = [sys.executable, __file__, "--prior", prior, "--within", str(found)]
        subprocess.run(command, check=True)
        seconds = json.loads(found.read_text())
    rest = {kind: seconds[kind]["all"] - seconds[kind]["looking"] for kind in ("cpu", "wall")}
    rows = [
        [label, *(f"{seconds[kind][part]:.2f}" for kind in ("cpu", "wall"))]
        for label, part in PARTS.items()
    ]
    rows.append(["all the rest of the run", f"{rest['cpu']:.1f}", f"{rest['wall']:.1f}"])
    more = 100 * seconds["cpu"]["looking"] / rest["cpu"]
    return (
        f'`maquette run "a red mushroom" --prior {prior}`, one run.\n\n'
        f"{table(['what', 'processor seconds', 'seconds'], rows)}\n\n"
        f"Looking on takes {more:.1f} % more processor time."
    )


def within(place: Path, prior: str) -> None:
    """A run in this process, with clocks around whatever looks on; writes what they show."""
    from maquette import pipeline
    from maquette.coarse import train as coarse
    from maquette.common.watch.growth import Growth
    from maquette.fine import deliver
    from maquette.fine import train as fine

    spent = {kind: dict.fromkeys(("all", "looking", *PARTS.values()), 0.0) for kind in clocks()}
    began = clocks()

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapper(*values: Any, **named: Any) -> Any:
            before = clocks()
            try:
                return call(*values, **named)
            finally:
                for kind, now in clocks().items():
                    spent[kind][part] += now - before[kind]
                    spent[kind]["looking"] += now - before[kind]

        return wrapper

    for owner, name, part in (
        *((Growth, name, "previews") for name in ("__init__", "after", "__exit__")),
        *((stage, "picture_end", "ends") for stage in (coarse, fine)),
        (deliver, "finish_pictures", "film"),
    ):
        setattr(owner, name, timed(part, getattr(owner, name)))
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        sys.argv = ["maquette", "run", "a red mushroom", "--prior", prior, "--out", out]
        with suppress(SystemExit):
            pipeline.main()
        assert (Path(out) / "export" / "report.json").is_file()
    for kind, now in clocks().items():
        spent[kind]["all"] = now - began[kind]
    place.write_text(json.dumps(spent))


def clocks() -> dict[str, float]:
    """Processor seconds of this process and of those it has waited for, and the clock's."""
    own, others = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    used = own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
    return {"cpu": used, "wall": time.perf_counter()}


def turns(prior: str, rounds: int) -> str:
    """Watched and unwatched runs, one after the other."""
    found: dict[str, list[float]] = {"unwatched": [], "watched": []}
    for _ in range(rounds):
        for name, more in (("unwatched", UNWATCHED), ("watched", ())):
            found[name].append(cpu_seconds(prior, more))
            print(name, f"{found[name][-1]:.1f}", flush=True)
    if not rounds:
        return ""
    plain, watched = min(found["unwatched"]), min(found["watched"])
    rows = [[name, f"{min(each):.1f}"] for name, each in found.items()]
    more = f"Watched takes {100 * (watched / plain - 1):.1f} % more processor time."
    told = f"In turns, best of {rounds}:"
    return f"\n\n{told}\n\n{table(['run', 'processor seconds'], rows)}\n\n{more}"


def cpu_seconds(prior: str, more: tuple[str, ...]) -> float:
    """Processor seconds of a run in a process of its own."""
    program = [sys.executable, "-c", "from maquette.pipeline import main; main()"]
    before = clocks()["cpu"]
    with tempfile.TemporaryDirectory() as place:
        out = str(Path(place) / "run")
        words = ["run", "a red mushroom", "--prior", prior, "--out", out, *more]
        subprocess.run([*program, *words], check=True)
    return clocks()["cpu"] - before


if __name__ == "__main__":
    main()

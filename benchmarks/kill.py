"""Are runs safe to kill? SIGKILL and SIGTERM at random moments of all stages; the same bits after.

    python benchmarks/kill.py [--kills 50] [--terms 20] [--prior toybox|exact] [--seed 0]

A small run goes through all stages undisturbed, for reference. Then the same run is begun anew,
signalled at random moments and resumed until it ends, again and again, until all signals are used.
After each: no child is left; SIGTERM ends with exit code 143 and a line that says how to go on. In
the end: every file of every stage is the reference's, bit for bit; no temporary file is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from results import write_section

import maquette.pipeline as pipeline
from maquette.common.runs.checkpoints import read_tensors

PROMPT = "a red mushroom"
SETTINGS = (
    *("coarse.steps=40", "coarse.checkpoint_every=8", "coarse.samples=24"),
    *("coarse.field.grid.levels=4", "coarse.field.grid.log2_entries=12", "coarse.field.hidden=16"),
    *("coarse.field.density_bias=10", "coarse.field.density_radius=0.5"),
    *("coarse.occupancy.resolution=16", "coarse.occupancy.start=0.02"),
    *("handoff.resolution=32", "handoff.views=16", "handoff.view_resolution=32"),
    *("fine.steps=16", "fine.checkpoint_every=4", "fine.views=1", "fine.geometry.resolution=24"),
    *("export.faces=3000", "export.texture_size=256"),
)
ROOT = Path(pipeline.__file__).resolve().parent


@dataclass
class Tally:
    """What became of the signals: by kind, how many were sent, and where they hit."""

    sent: dict[str, int] = field(default_factory=lambda: {"SIGKILL": 0, "SIGTERM": 0})
    stages: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    runs: int = 0


def command(*arguments: str) -> list[str]:
    """The program, whatever is on the path."""
    code = f"import sys; sys.path.insert(0, {str(ROOT.parent)!r}); from maquette import pipeline;"
    return [sys.executable, "-c", f"{code} pipeline.main()", *arguments]


def first(folder: Path, prior: str) -> list[str]:
    """The command that begins the run."""
    pairs = [word for pair in SETTINGS for word in ("--set", pair)]
    out = ("--out", str(folder), "--device", "cpu", "--threads", "1")
    return command("run", PROMPT, "--prior", prior, *out, *pairs)


def stage_of(folder: Path) -> str:
    """What the run was about, by its events."""
    try:
        lines = (folder / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
    except (OSError, ValueError):
        return "before"
    names = [(e["event"], e.get("stage", "")) for e in events]
    if ("stage finished", "fine") in names:
        return "export"
    started = [stage for name, stage in names if name == "stage started"]
    return started[-1] if started else "before"


def disturb(arguments: list[str], kind: str, delay: float, folder: Path, tally: Tally) -> bool:
    """Run a command and signal it after `delay` seconds; whether it ended before that."""
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        pass
    else:
        if process.returncode != 0:
            told = process.stderr.read() if process.stderr else ""
            tally.wrong.append(f"ended with {process.returncode}: {told[-300:]}")
        return True
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(getattr(signal, kind))
    _, told = process.communicate(timeout=300)
    tally.sent[kind] += 1
    stage = stage_of(folder)
    tally.stages[stage] = tally.stages.get(stage, 0) + 1
    if kind == "SIGTERM":
        tally.wrong += ill_ended(process.returncode, told, stage)
    gone, alive = psutil.wait_procs(children, timeout=5)
    if alive:
        tally.wrong.append(
            f"{kind} in {stage} left {[p.pid for p in alive]} of {len(gone)} running"
        )
    return False


def ill_ended(code: int, told: str, stage: str) -> list[str]:
    """What is wrong with how SIGTERM ended a command; it may have ended well just before.

    Once its work is done the interpreter closes down, and the signal ends it by itself: to a shell
    that is 143 too.
    """
    if code == 0 or (code == -signal.SIGTERM and "read back at" in told):
        return []
    wrong = [] if code == 143 else [f"SIGTERM in {stage} ended with {code}: {told[-300:]}"]
    if "Traceback" in told:
        wrong.append(f"SIGTERM in {stage}: a traceback")
    if "to go on" not in told:
        wrong.append(f"SIGTERM in {stage}: no line how to go on")
    return wrong


def differences(one: Path, two: Path) -> list[str]:
    """The files of a run that aren't those of another, bit for bit."""
    wrong = []
    names = [p.relative_to(two) for p in two.rglob("*") if p.is_file()]
    for name in sorted(names):
        if name.parts[0] not in ("coarse", "fine", "export") or name.name in UNLIKE:
            continue
        mine = one / name
        if name.name.startswith("step-") and name.name not in LAST:
            continue  # what else is kept goes by where the run was stopped
        if not mine.is_file():
            wrong.append(f"{name} is missing")
        elif name.suffix == ".safetensors":
            a, b = read_tensors(mine), read_tensors(two / name)
            if a.keys() != b.keys() or not all(a[k].equal(b[k]) for k in a):
                wrong.append(f"{name} differs")
        elif mine.read_bytes() != (two / name).read_bytes():
            wrong.append(f"{name} differs")
    return wrong + [f"{p.name} is left" for p in one.rglob("*.part")]


UNLIKE = {"report.json", "made-from.json"}  # hold seconds, and digests of what holds them
LAST = {"step-000040.safetensors", "step-000016.safetensors"}


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--prior", default="toybox", choices=("toybox", "exact"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    place = Path(tempfile.mkdtemp(prefix="maquette-kill-"))
    os.environ["TMPDIR"] = str(place / "tmp")
    (place / "tmp").mkdir()
    began = time.monotonic()
    subprocess.run(
        first(place / "reference", arguments.prior),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    length = time.monotonic() - began
    print(f"reference: {length:.0f} s", flush=True)
    kinds = ["SIGKILL"] * arguments.kills + ["SIGTERM"] * arguments.terms
    draw.shuffle(kinds)
    tally = Tally()
    while kinds:
        folder = place / "run"
        shutil.rmtree(folder, ignore_errors=True)
        begin, finished = first(folder, arguments.prior), False
        while not finished:
            opened = (folder / "config.yaml").is_file()
            now = command("resume", str(folder)) if opened else begin
            if kinds:
                delay = draw.uniform(0.1, length)
                finished = disturb(now, kinds[-1], delay, folder, tally)
                if finished:
                    length *= 0.9  # a resumed run has less to do
                else:
                    kinds.pop()
            else:
                finished = True
                ended = subprocess.run(now, capture_output=True, text=True, check=False)
                if ended.returncode != 0:
                    tally.wrong.append(f"ended with {ended.returncode}: {ended.stderr[-300:]}")
        tally.runs += 1
        tally.wrong += differences(folder, place / "reference")
        print(f"{tally.runs} runs, {sum(tally.sent.values())} signals, {tally.wrong}", flush=True)
    left = [p.name for p in (place / "tmp").iterdir() if p.name.startswith("maquette-")]
    tally.wrong += [f"{name} is left" for name in left]
    report(tally, arguments.prior, length)
    shutil.rmtree(place, ignore_errors=True)
    if tally.wrong:
        sys.exit(1)


def report(tally: Tally, prior: str, length: float) -> None:
    """Write what was found to RESULTS.md."""
    total = sum(tally.sent.values())
    stages = ", ".join(f"{count} in {stage}" for stage, count in sorted(tally.stages.items()))
    write_section(
        f"kill.py --prior {prior}",
        f"A run of {length:.0f} s undisturbed; "
        f"{tally.sent['SIGKILL']} SIGKILLs and {tally.sent['SIGTERM']} SIGTERMs at random moments "
        f"({stages}), over {tally.runs} runs.\n\n"
        f"Same bits in the end, no child and no temporary file left, exit code 143 and a line how "
        f"to go on after SIGTERM: {total - len(tally.wrong)} of {total}."
        + "".join(f"\n- {wrong}" for wrong in tally.wrong),
    )


if __name__ == "__main__":
    main()

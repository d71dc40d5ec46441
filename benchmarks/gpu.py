"""All that a GPU at hand for minutes can tell, the most important first (docs/gpu.md).

    python benchmarks/gpu.py --out FOLDER                 # at most 8 minutes on a GPU
    python benchmarks/gpu.py --out FOLDER --dry           # every part tiny, on the CPU
    python benchmarks/gpu.py --out FOLDER --only kernels  # chosen parts

Parts: `tests` (those marked gpu), `toybox` (the default run, by stage, with its scores), `steps`
(full-size steps of both stages under random weights, and each preset of memory on a card that is
played by a limit), `kernels` (each twin against plain torch, and against the card's bandwidth),
`training` (images a second), `options` (steps with what may be switched on for speed). Every part
runs in processes of its own under a time limit, and what it has found is in FOLDER/gpu.json and
FOLDER/gpu.md as soon as it is found. `--write` puts the tables into RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from results import machine, table, write_section

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUDGET_S = 480.0
MODELS = (
    ("sd15", "fine"),
    ("sd15", "coarse"),
    ("if", "coarse"),
    ("sdxl", "fine"),
    ("sdxl", "coarse"),
)
PRESETS = (
    ("sd15", "fine", "8"),
    ("sdxl", "fine", "12"),
    ("sdxl", "fine", "16"),
    ("if", "coarse", "12"),
    ("sdxl", "fine", "24"),
    ("if", "coarse", "16"),
    ("sdxl", "fine", "8"),
)
OPTIONS = (
    ("sd15", "coarse", "sizes=asked"),
    ("sd15", "fine", "sizes=asked"),
    ("sd15", "coarse", "networks=tf32"),
    ("sd15", "coarse", "networks=bfloat16"),
    ("sd15", "fine", "vae_dtype=bfloat16"),
    ("sd15", "fine", "channels_last=true"),
    ("sd15", "fine", "vae_dtype=bfloat16 channels_last=true"),
    ("sd15", "fine", "compile=kernels"),
    ("sd15", "fine", "compile=graphs"),
)
LIMITS_S = {
    "tests": 120.0,
    "toybox": 150.0,
    "steps": 45.0,
    "kernels": 60.0,
    "training": 45.0,
    "options": 90.0,
}
PATIENCE = 20  # times as long for a dry run, on whatever else the CPU has to do
TINY_RUN = [
    *("coarse.steps=4", "coarse.samples=16", "coarse.field.grid.levels=4"),
    *("coarse.field.grid.log2_entries=12", "coarse.field.density_bias=10", "handoff.resolution=32"),
    *("coarse.occupancy.resolution=16", "handoff.views=16", "handoff.view_resolution=32"),
    *("coarse.field.hidden=16", "fine.steps=1", "fine.views=1", "fine.geometry.resolution=16"),
    *("export.faces=500", "export.texture_size=64", "fine.texture.extra_levels=1"),
]
TINY_TRAINING = [
    *("text_width=16", "text_layers=1", "eval_views=2", "sample_steps=1", "instances=2"),
    *("batch=4", "reuse=2", "memory=8", "resolution=16", "widths=[8, 16]"),
]

Row = dict[str, Any]


def main() -> None:
    """Run the parts in order within the budget, writing as they come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry", action="store_true", help="every part tiny, on the CPU")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help="for all parts together")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    patience = PATIENCE if options.dry else 1
    found = Found(options.out, options.seconds, patience)
    for name in options.only:
        PARTS[name](found, options.dry)
    print(found.text())
    if options.write:
        write_section("gpu.py", found.text())


class Found:
    """Rows by part, on disk as soon as they are known, and the time that is left."""

    def __init__(self, out: Path, seconds: float, patience: int = 1) -> None:
        self.out, self.ends = out, time.monotonic() + patience * seconds
        self.patience = patience
        self.rows: dict[str, list[Row]] = {}

    def add(self, part: str, row: Row) -> None:
        """One more row of a part."""
        self.rows.setdefault(part, []).append(row)
        (self.out / "gpu.json").write_text(json.dumps(self.rows, indent=1) + "\n", "utf-8")
        (self.out / "gpu.md").write_text(self.text() + "\n", "utf-8")
        print(part, json.dumps(row), flush=True)

    def text(self) -> str:
        """Every part as a table."""
        parts = [f"{card()} {machine()}"]
        for part, rows in self.rows.items():
            heads = list(dict.fromkeys(key for row in rows for key in row))
            cells = [[_cell(row.get(head, "")) for head in heads] for row in rows]
            parts.append(f"### {part}\n\n{table(heads, cells)}")
        return "\n\n".join(parts)

    def child(self, part: str, program: list[str], limit: float) -> Iterator[Row]:
        """The rows that a process prints, as JSON lines; one that tells how it ended if it failed.

        The process is ended at its limit, or at the end of the whole budget; what it printed until
        then counts.
        """
        seconds = min(self.patience * limit, self.ends - time.monotonic())
        if seconds < 5.0:
            yield {"what": " ".join(program[:1]), "ended": "no time left"}
            return
        log = self.out / f"{part}.log"
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, *program], stdout=subprocess.PIPE, stderr=errors,
                env=environment, text=True, cwd=ROOT, start_new_session=True,
            )  # fmt: skip
            try:
                output, _ = process.communicate(timeout=seconds)
                ended = f"exit code {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                _end(process)
                output, _ = process.communicate()
                ended = f"cut off after {seconds:.0f} s"
        for line in output.splitlines():
            if line.startswith("{"):
                yield json.loads(line)
            else:
                with log.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        if ended:
            yield {"what": " ".join(program[1:4]), "ended": f"{ended}; see {log.name}"}


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and those that it has begun, which would keep its output open."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def card() -> str:
    """The card that the numbers are of."""
    if not torch.cuda.is_available():
        return "No GPU: tiny sizes on the CPU, which say that the script runs and nothing else."
    found = torch.cuda.get_device_properties(0)
    return f"{found.name}, {found.total_memory / 2**30:.0f} GiB."


def run_tests(found: Found, dry: bool) -> None:
    """The tests marked gpu; how many passed, failed and were skipped."""
    places = ["tests/common/test_backends.py"] if dry else ["tests"]
    marked = ["-k", "constants"] if dry else ["-m", "gpu"]
    log = found.out / "tests.xml"
    program = [
        "-m",
        "pytest",
        "-q",
        *places,
        *marked,
        f"--junitxml={log}",
        "-p",
        "no:cacheprovider",
    ]
    for row in found.child("tests", program, LIMITS_S["tests"]):
        found.add("tests", row)
    if log.is_file():
        from xml.etree import ElementTree

        suite = ElementTree.parse(log).getroot()[0].attrib
        keys = ("tests", "failures", "errors", "skipped", "time")
        found.add("tests", {key: float(suite[key]) for key in keys})


def run_toybox(found: Found, dry: bool) -> None:
    """The default run by stage, then its scores."""
    out = found.out / "run"
    base = ["-m", "maquette.pipeline"]
    options = ["--prior", "exact", "--device", "cpu"] if dry else []
    options += [word for pair in (TINY_RUN if dry else []) for word in ("--set", pair)]
    program = [*base, "run", "a red mushroom", "--out", str(out), *options]
    began = time.monotonic()
    for row in found.child("toybox", program, LIMITS_S["toybox"]):
        found.add("toybox", row)
    from run_cpu import stage_seconds

    if not (out / "events.jsonl").is_file():
        return
    seconds = {name: round(value, 2) for name, value in stage_seconds(out).items()}
    found.add("toybox", seconds | {"all": round(time.monotonic() - began, 2)})
    scores = found.out / "scores.json"
    program = [*base, "evaluate", str(out), "--json", str(scores)]
    for row in found.child("toybox", program, 60.0):
        found.add("scores", row)
    if scores.is_file():
        for row in _rows(json.loads(scores.read_text("utf-8"))):
            found.add("scores", row)


def run_steps(found: Found, dry: bool) -> None:
    """Full-size steps, then each preset of memory."""
    cases = [*((*pair, "none") for pair in MODELS), *PRESETS]
    for model, stage, vram in cases[:1] if dry else cases:
        program = [str(HERE / "gpu_step.py"), model, stage, vram, *(["--dry"] if dry else [])]
        for row in found.child("steps", program, LIMITS_S["steps"]):
            found.add("steps", row)


def run_options(found: Found, dry: bool) -> None:
    """Full-size steps with one option each, to be held against those of `steps` without it."""
    for model, stage, chosen in [("if", "coarse", "networks=bfloat16")] if dry else OPTIONS:
        program = [str(HERE / "gpu_step.py"), model, stage, "none", *(["--dry"] if dry else [])]
        for row in found.child(
            "options", [*program, "--set", *chosen.split()], LIMITS_S["options"]
        ):
            found.add("options", row)


def run_kernels(found: Found, dry: bool) -> None:
    """Each twin against plain torch; then those that are compiled first, which may take minutes."""
    program = [str(HERE / "gpu_kernels.py")]
    ours, theirs = ["--twins", "torch", "triton"], ["--twins", "nvdiffrast", "nerfacc"]
    for more in [["--dry"]] if dry else [ours, theirs]:
        for row in found.child("kernels", [*program, *more], LIMITS_S["kernels"]):
            found.add("kernels", row)


def run_training(found: Found, dry: bool) -> None:
    """Images a second of `train-prior pixel`."""
    out = found.out / "training"
    program = ["-m", "maquette.pipeline", "train-prior", "pixel", "--out", str(out)]
    if dry:
        program += ["--images", "8", "--device", "cpu"]
        program += [word for pair in TINY_TRAINING for word in ("--set", pair)]
    else:
        program += ["--minutes", "0.4", "--set", "precision=bfloat16", "--set", "batch=256"]
        program += ["--set", "reuse=8", "--set", "channels_last=true"]
    for row in found.child("training", program, LIMITS_S["training"]):
        found.add("training", row)
    for row in _trained(out):
        found.add("training", row)


def _trained(out: Path) -> list[Row]:
    """The last line that a training wrote of itself: images, seconds, images a second."""
    for path in sorted(out.rglob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
        told = [line for line in lines if line.get("images") and line.get("seconds")]
        if told:
            images, seconds = told[-1]["images"], told[-1]["seconds"]
            rate = {"images a second": images / seconds}
            return [{"network": "pixel", "images": images, "seconds": seconds, **rate}]
    return []


def _rows(scores: Any) -> list[Row]:
    """The numbers of an `evaluate --json` file, a row a run."""
    listed = scores if isinstance(scores, list) else list(scores.values())
    return [
        {k: v for k, v in row.items() if isinstance(v, int | float | str)}
        for row in listed
        if isinstance(row, dict)
    ]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


PARTS: dict[str, Callable[[Found, bool], None]] = {
    "tests": run_tests,
    "toybox": run_toybox,
    "steps": run_steps,
    "kernels": run_kernels,
    "training": run_training,
    "options": run_options,
}


if __name__ == "__main__":
    main()

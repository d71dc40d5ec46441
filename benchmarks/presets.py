"""Time and quality of the presets on known answers: one caption, one seed, every preset.

Processor time stands beside wall-clock time: the latter grows where others share the cores.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import table, write_section

from maquette.common.config.presets import PRESETS
from maquette.common.runs.folder import open_run
from maquette.fine.evaluate import evaluate_run


def main() -> None:
    """Make a run of each preset, score it, and write a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prior", default="toybox")
    parser.add_argument("--prompt", default="a red mushroom")
    options = parser.parse_args()
    rows = []
    for preset in PRESETS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            wall, cpu = timed(options.prompt, options.prior, preset, folder)
            scores = evaluate_run(open_run(str(folder)))
        quality = [f"{scores.f_score:.3f}", f"{scores.iou:.3f}", f"{scores.psnr:.1f}"]
        rows.append([preset, f"{wall:.0f}", f"{cpu:.0f}", *quality])
        print(*rows[-1], flush=True)
    head = ["preset", "seconds", "processor seconds", "F-score at 0.03", "IoU", "PSNR, dB"]
    name = "presets.py" + ("" if options.prior == "toybox" else f" --prior {options.prior}")
    told = f'`maquette run "{options.prompt}" --prior {options.prior} --preset NAME`, seed 0.'
    write_section(name, f"{told}\n\n{table(head, rows)}")


def timed(prompt: str, prior: str, preset: str, folder: Path) -> tuple[float, float]:
    """Wall-clock and processor seconds of a run in a process of its own."""
    code = "from maquette.pipeline import main; main()"
    command = [sys.executable, "-c", code, "run", prompt, "--prior", prior, "--preset", preset]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*command, "--device", "cpu", "--out", str(folder)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu


if __name__ == "__main__":
    main()

"""Time and quality of the presets on known answers: one caption, one seed, every preset.

    python benchmarks/presets.py [--prior NAME] [--only fast,default]

Processor time stands beside wall-clock time: the latter grows where others share the cores. With
--only the other presets' rows stay in the section of RESULTS.md as they are. `maquette configs`
tells the same figures, from configs/presets.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import read_rows, table, write_section

from maquette.common.config.presets import PRESETS
from maquette.common.runs.folder import open_run
from maquette.common.shelf.tables import MEASURED, read_json
from maquette.fine.evaluate import evaluate_run


def main() -> None:
    """Make a run of each preset, score it, and write a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prior", default="toybox")
    parser.add_argument("--prompt", default="a red mushroom")
    parser.add_argument("--only", default=",".join(PRESETS), help="presets to measure")
    options = parser.parse_args()
    name = "presets.py" + ("" if options.prior == "toybox" else f" --prior {options.prior}")
    found = {row[0]: row for row in read_rows(name) if row[0] in PRESETS}
    for preset in options.only.split(","):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            wall, cpu = timed(options.prompt, options.prior, preset, folder)
            scores = evaluate_run(open_run(str(folder)))
        quality = [f"{scores.f_score:.3f}", f"{scores.iou:.3f}", f"{scores.psnr:.1f}"]
        keep(options.prior, preset, [f"{cpu:.0f}", *quality])
        found[preset] = [preset, f"{wall:.0f}", f"{cpu:.0f}", *quality]
        print(*found[preset], flush=True)
        rows = [found[each] for each in PRESETS if each in found]
        head = ["preset", "seconds", "processor seconds", "F-score at 0.03", "IoU", "PSNR, dB"]
        told = f'`maquette run "{options.prompt}" --prior {options.prior} --preset NAME`, seed 0.'
        # After each, for the next one takes long and may be cut off.
        write_section(name, f"{told}\n\n{table(head, rows)}")


def keep(prior: str, preset: str, figures: list[str]) -> None:
    """Let `maquette configs` tell it."""
    known = read_json(MEASURED) or {}
    names = ("cpu", "f_score", "iou", "psnr")
    row = dict(zip(names, map(float, figures), strict=True))
    mine = {**known.get(prior, {}), preset: row}
    known[prior] = {name: mine[name] for name in PRESETS if name in mine}
    MEASURED.write_text(json.dumps(known, indent=2) + "\n", "utf-8")


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

"""An export that is killed at random moments leaves the old set or the new one, never a mixture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maquette import pipeline

pytestmark = pytest.mark.slow

CUTS = int(os.environ.get("MAQUETTE_CUTS", "8"))  # `benchmarks/export_cut.py` makes fifty
# One process loads everything, and forks a child for each export, which an alarm kills: the
# signal's own action, so that nothing is cleaned up. Children work on one thread.
CODE = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import numba
numba.set_num_threads(1)
import torch
torch.set_num_threads(1)
from maquette.common.runs.folder import open_run
from maquette.fine import deliver

folder, cuts = Path(sys.argv[1]), int(sys.argv[2])
WAYS = ({"faces": 300, "formats": "obj,glb,ply,3mf,stl"}, {"faces": 500, "formats": "obj,glb"})

def child(options, seconds):
    pid = os.fork()
    if pid == 0:
        if seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            run = open_run(str(folder))
            deliver.finish_export(run) if options is None else deliver.run_export(run, options)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def contents():
    files = [p for p in (folder / "export").iterdir() if p.name != "report.json"]  # holds seconds
    return {p.name: p.read_bytes() for p in files}

def main():
    whole = []
    for options in WAYS:
        started = time.monotonic()
        assert child(options, None) == 0
        took = time.monotonic() - started
        whole.append(contents())
    assert whole[0] != whole[1]
    random.seed(0)
    killed = 0
    for index in range(cuts):
        way = index % 2
        # The last third of the time is where files are swapped: half of the cuts fall there.
        low = 0.6 if index % 4 < 2 else 0.0
        status = child(WAYS[way], took * random.uniform(low, 1.05))
        assert status in (0, signal.SIGALRM), status
        killed += status == signal.SIGALRM
        found = contents()
        assert found in whole, (index, sorted(found))
        if index % 4 == 3:  # what the run has on record is what resuming ends with
            asked = json.loads((folder / deliver.OPTIONS).read_text())
            recorded = [o["faces"] for o in WAYS].index(asked["faces"])
            assert child(None, None) == 0
            assert contents() == whole[recorded], (index, recorded, way)
            hidden = {p.name for p in folder.iterdir() if p.name.startswith(".")}
            assert hidden <= {".lock"}, hidden
    print("KILLED", killed, flush=True)

try:
    main()
except BaseException:
    traceback.print_exc()
    os._exit(1)  # numba's threads are not waited for at a plain exit: forks have none of them
os._exit(0)
"""


def cut(folder: Path, cuts: int) -> int:
    """Cut exports of a finished run, and compare; how many of them were killed."""
    parts = [str(Path(pipeline.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(cuts)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(parts), "NUMBA_NUM_THREADS": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return int(ended.stdout.splitlines()[-1].split()[1])


def test_cuts_leave_a_whole_set(tmp_path: Path, small_run: Path) -> None:
    folder = Path(shutil.copytree(small_run, tmp_path / "run"))
    killed = cut(folder, CUTS)
    print(f"{killed} of {CUTS} exports were killed")  # the benchmark reads it
    assert killed > CUTS // 2

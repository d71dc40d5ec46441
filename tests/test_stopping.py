"""Real processes, really stopped: the step ends, it is kept, one line says how to go on."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from maquette.common.runs.checkpoints import read_tensors, steps_on_disk
from maquette.fine.export.unwrap import clear_abandoned
from tests.reference.processes import started

pytestmark = pytest.mark.slow

PROMPT = "a red mushroom"


def signalled(sign: str, number: int, *arguments: str) -> tuple[int, str]:
    """Run a command until it prints a line that starts with `sign`, and signal it there."""
    process = started(*arguments)
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith(sign):
            process.send_signal(number)
            break
    told.append(process.stderr.read())
    return process.wait(timeout=120), "".join(told)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_step_is_kept(
    tmp_path: Path, small_settings: list[str], number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "my run"
    start = ("run", PROMPT, "--out", str(folder), "--device", "cpu", *small_settings)
    ended, told = signalled("coarse  3/12", number, *start)
    assert ended == code, told
    assert "Traceback" not in told
    assert f"maquette resume '{folder}'" in told.splitlines()[-1]
    steps = steps_on_disk(folder / "coarse")
    assert steps[-1] >= 3
    assert steps[-1] % 5 != 0 or steps[-1] == 5
    read_tensors(folder / "coarse" / f"step-{steps[-1]:06d}.safetensors")
    assert list(folder.rglob("*.part")) == []
    assert not (folder / ".lock").exists()


def test_stopped_before_there_is_anything_to_keep(tmp_path: Path) -> None:
    process = started("run", PROMPT, "--prior", "exact", "--out", str(tmp_path / "run"))
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    told = process.stderr.read()
    assert process.wait(timeout=60) == 130, told
    assert "to go on, give the same command again" in told
    assert "Traceback" not in told


def test_nothing_is_left_of_an_unwrapping(
    tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while xatlas runs: the child ends too, and the next command clears its folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    process = started("export", str(folder), "--faces", "1500")
    children: list[psutil.Process] = []
    while not children and process.poll() is None:
        children = psutil.Process(process.pid).children()
        time.sleep(0.01)
    assert children
    process.kill()
    process.wait()
    if sys.platform == "linux":
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
    left = list((tmp_path / "tmp").glob("maquette-unwrap-*"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    clear_abandoned()
    assert list((tmp_path / "tmp").glob("maquette-unwrap-*")) == []
    assert len(left) <= 1

"""A run cut off at any step and resumed ends with the bits of one that was never cut off."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from maquette.coarse.train import run_coarse
from maquette.common.runs.checkpoints import checkpoint_path, read_tensors
from maquette.common.runs.coarse_result import RESULT
from maquette.common.runs.folder import open_run
from maquette.fine.first_shape import FIRST
from maquette.fine.train import run_fine
from tests.reference.processes import started

pytestmark = pytest.mark.slow

PROMPT = "a red mushroom"
# Where the power fails: before the first checkpoint, between two, and in the fine stage as well.
CUTS = ("coarse  3/12", "coarse  8/12", "fine  1/6", "fine  5/6")


def killed_at(sign: str, *arguments: str) -> None:
    """Run a command until it prints a line that starts with `sign`, and kill it there."""
    process = started(*arguments)
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith(sign):
            process.kill()
            break
    assert process.wait() == -signal.SIGKILL, "".join(told)


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def assert_same_files(one: Path, two: Path) -> None:
    for name in (
        f"coarse/{checkpoint_path(Path(), 12).name}",
        f"coarse/{RESULT}",
        f"fine/{FIRST}",
        f"fine/{checkpoint_path(Path(), 6).name}",
    ):
        a, b = read_tensors(one / name), read_tensors(two / name)
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == [], name


def test_killed_and_resumed_again_and_again(
    tmp_path: Path, small_run: Path, small_settings: list[str]
) -> None:
    folder = tmp_path / "run"
    start = ("run", PROMPT, "--out", str(folder), "--device", "cpu", *small_settings)
    for cut in CUTS:
        killed_at(cut, *start)
        start = ("resume", str(folder))
    process = started("fine", str(folder))
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert_same_files(folder, small_run)
    begun = [(e["stage"], e["step"]) for e in events(folder) if e["event"] == "stage started"]
    assert begun == [
        ("coarse", 0),
        ("coarse", 0),
        ("coarse", 5),
        ("fine", 0),
        ("fine", 0),
        ("fine", 4),
    ]
    assert [e for e in events(folder) if e["event"] == "warning"] == []
    assert list(folder.rglob("*.part")) == []


def test_the_small_run_has_something_to_lose(small_run: Path) -> None:
    """Equal bits would say little about a run in which nothing moves."""
    first, last = (read_tensors(checkpoint_path(small_run / "fine", step)) for step in (4, 6))
    moved = {key for key in first if not torch.equal(first[key], last[key])}
    assert {"sdf/value", "offset/value", "texture/field.grid.tables", "random/cpu"} <= moved
    # From another seed everything is different.
    assert open_run(str(small_run)).config.seed == 0


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_the_last_checkpoint_is_damaged(tmp_path: Path, small_run: Path, stage: str, capfd) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    steps = {"coarse": (12, 10), "fine": (6, 4)}[stage]
    last = checkpoint_path(folder / stage, steps[0])
    last.write_bytes(last.read_bytes()[:-100])
    if stage == "coarse":
        (folder / "coarse" / RESULT).unlink()
    run = open_run(str(folder))
    run_coarse(run)
    run_fine(run)
    assert_same_files(folder, small_run)
    told = capfd.readouterr().err
    assert f"{last.name} is damaged" in told
    assert f"going on from {checkpoint_path(Path(), steps[1]).name}" in told
    begun = [e for e in events(folder) if e["event"] == "stage started"]
    assert (begun[-1]["stage"], begun[-1]["step"]) == (stage, steps[1])


def test_a_damaged_result_is_made_again_from_the_checkpoint(
    tmp_path: Path, small_run: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    (folder / "coarse" / RESULT).write_bytes(b"cut off")
    before = len(events(folder))
    run_coarse(open_run(str(folder)))
    assert_same_files(folder, small_run)
    assert len(events(folder)) == before  # no step was done again

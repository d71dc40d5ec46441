"""Whatever a user gets wrong: exit code 2, one line, nothing written, nothing left running."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from maquette import pipeline
from maquette.common.errors import LONGEST
from tests.bad_inputs.cases import Case, all_cases

CASES = all_cases()
PATIENCE = 60
SECONDS = 2.0  # of the processor, which other programs can't take away


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every name below a folder, and what plain files hold."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        plain = stat.S_ISREG(path.lstat().st_mode)
        found[str(path.relative_to(folder))] = path.read_bytes() if plain else "no file"
    return found


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """What isn't refused must not start to work."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("nothing was refused")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 300
    commands = {case.arguments[0] for case in CASES}
    assert {"run", "coarse", "fine", "export", "resume", "evaluate", "train-prior"} <= commands


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{c.name}" for n, c in enumerate(CASES)])
def test_a_mistake_gets_one_line(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if case.world is not None:
        case.world(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["maquette", *case.arguments])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before, began = contents(tmp_path), time.process_time()
    with pytest.raises(SystemExit) as ended:
        pipeline.main()
    took = time.process_time() - began
    told = capfd.readouterr()
    assert ended.value.code == 2, told.err
    assert told.out == ""
    lines = told.err.splitlines()
    assert len(lines) == 1, told.err
    assert lines[0].startswith("error: ")
    assert len(lines[0]) <= LONGEST
    assert lines[0].isprintable()
    for word in case.words:
        assert word in lines[0]
    assert contents(tmp_path) == before
    assert psutil.Process().children() == []
    assert took < SECONDS

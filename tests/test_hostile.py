"""A machine that refuses something: one line, and nothing that was done is lost."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from maquette.common import threads
from maquette.common.runs.checkpoints import steps_on_disk
from tests.reference.processes import started

PROMPT = "a red mushroom"


piped = functools.partial(started, stdout=subprocess.PIPE)


def error_of(told: str) -> str:
    """The one line that says what was refused."""
    assert "Traceback" not in told, told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    return line


def test_an_old_locale_changes_no_letter(tmp_path: Path) -> None:
    process = piped(
        "run", "красный гриб", LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "'красный'" in error_of(told)


@pytest.mark.parametrize("name", ["NUMBA_NUM_THREADS", "OMP_NUM_THREADS"])
def test_no_threads_at_all_is_told(name: str) -> None:
    process = piped("run", PROMPT, **{name: "0"})
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert name in error_of(told)


@pytest.mark.parametrize("prior", ["sd15", "some/thing"])
def test_a_model_of_the_hub_that_isn_t_there_is_told_by_a_fresh_process(
    prior: str, tmp_path: Path
) -> None:
    """In one of its own: what other commands have imported must not be needed."""
    process = piped("run", "a corgi", "--prior", prior, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2, told
    assert "HF_HUB_OFFLINE" in error_of(told)


def test_without_a_home_compiled_code_has_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"HOME": "/nowhere"}
    monkeypatch.setattr(os, "access", lambda *_: False)
    threads.settle(1, environment)
    assert "maquette-numba" in environment["NUMBA_CACHE_DIR"]
    environment = {"HOME": "/nowhere", "NUMBA_CACHE_DIR": "/mine"}
    threads.settle(1, environment)
    assert environment["NUMBA_CACHE_DIR"] == "/mine"


def test_a_small_address_space_is_told(tmp_path: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (500 * 2**20, 500 * 2**20))

    process = piped("run", PROMPT, "--out", str(tmp_path / "run"), before=small)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2, told
    assert "ulimit -v" in error_of(told)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_files_that_may_not_grow_are_told_and_the_run_goes_on_later(
    tmp_path: Path, small_settings: list[str]
) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    folder = tmp_path / "run"
    start = ("run", PROMPT, "--out", str(folder), "--device", "cpu", *small_settings)
    process = piped(*start, before=small)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 2, told
    line = error_of(told)
    assert "File too large" in line
    assert "maquette resume" in line
    assert list(folder.rglob("*.part")) == []
    process = piped("resume", str(folder))
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    assert steps_on_disk(folder / "fine")[-1] == 6


@pytest.mark.slow
def test_a_folder_that_vanishes_is_told(tmp_path: Path, small_settings: list[str]) -> None:
    folder = tmp_path / "run"
    process = piped("run", PROMPT, "--out", str(folder), "--device", "cpu", *small_settings)
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith("coarse  3/12"):
            shutil.rmtree(folder)
            break
    told.append(process.stderr.read())
    assert process.wait(timeout=120) == 2, "".join(told)
    assert "No such file or directory" in error_of("".join(told))

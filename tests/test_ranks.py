"""Several processes at one run take the steps of one that has all the views, and end together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from maquette.coarse.train import run_coarse
from maquette.common import launch, ranks
from maquette.common.begin import Choices, begin
from maquette.common.errors import UserError
from maquette.common.ranks import Ranks
from maquette.common.runs.checkpoints import checkpoint_path, read_tensors, steps_on_disk
from maquette.common.runs.folder import open_run
from maquette.fine.train import load_finished, run_fine
from tests.conftest import SMALL_RUN

PROMPT = "a red mushroom"
SHARED = SMALL_RUN | {
    "coarse.views": 2,
    "fine.views": 2,
    "coarse.steps": 2,
    "fine.steps": 2,
    "coarse.checkpoint_every": 1,
    "fine.checkpoint_every": 1,
    "coarse.light.albedo_steps": 0,
    "coarse.losses.orientation": 1.0,
    "coarse.background.kind": "random",
    "fine.camera.distance": "[16, 16]",  # few pixels, so short sums, which round little
    "export.faces": 300,
    "export.texture_size": 64,
}


def command(folder: Path, changes: dict[str, object], *more: str) -> list[str]:
    """The program for two processes on the CPU."""
    pairs = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    base = [sys.executable, "-m", "maquette.pipeline", "run", PROMPT, "--out", str(folder)]
    return [*base, "--device", "cpu", "--gpus", "2", *pairs, *more]


@pytest.fixture
def alone() -> Iterator[None]:
    """The numbers of a test's own ranks end with it."""
    yield
    ranks._now = Ranks()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path / "two", SHARED), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2  # the first process alone speaks
    pairs = [f"{key}={value}" for key, value in SHARED.items()]
    one = begin(PROMPT, Choices(settings=pairs, out=str(tmp_path / "one"), device="cpu"))
    run_coarse(one)
    run_fine(one)
    two = open_run(str(tmp_path / "two"))
    for stage in ("coarse", "fine"):
        first, other = (read_tensors(checkpoint_path(r.folder / stage, 1)) for r in (one, two))
        assert first.keys() == other.keys()
        moments = [key for key in first if key.endswith("exp_avg")]  # of one step: the gradient
        assert len(moments) > 3
        # Sums of other lengths round otherwise, longer ones more; nothing else differs.
        # Some parameters' own are sums that nearly cancel, of which that is a larger share.
        largest = max(float(first[key].abs().max()) for key in moments)
        assert largest > 0.0
        for key in moments:
            own = float(first[key].abs().max())
            limit = min(1e-6 * largest, 1e-4 * own)
            assert torch.allclose(first[key], other[key], atol=limit, rtol=0.0), key
        assert torch.equal(first["random/cpu"], other["random/cpu"])
    views = [read_tensors(run.coarse / "result.safetensors")["opacity"] for run in (one, two)]
    assert overlap(*views) > 0.99
    solid = [load_finished(run).sdf.value.detach() < 0 for run in (one, two)]
    assert overlap(*solid) > 0.99
    events = (two.folder / "events.jsonl").read_text("utf-8")
    assert events.count('"stage finished"') == 2


def overlap(one: Tensor, two: Tensor) -> float:
    """Intersection over union of two masks."""
    a, b = one > 0.5, two > 0.5
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    endless = SHARED | {"coarse.steps": 100_000}
    process = subprocess.Popen(command(folder, endless), stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 300
        while len(steps_on_disk(folder / "coarse")) < 2 and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.2)
        second = [p for p in psutil.Process(process.pid).children() if p.environ()["RANK"] == "1"]
        second[0].kill()
        _, said = process.communicate(timeout=120)
    finally:
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.kill()
        process.kill()
    assert process.returncode == 2
    assert "process 1 of 2 ended by signal 9" in said.splitlines()[-1]
    assert "the same command goes on from it" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert steps_on_disk(folder / "coarse")


@pytest.mark.usefixtures("alone")
def test_rows_and_draws_are_slices_of_what_one_process_has() -> None:
    torch.manual_seed(3)
    whole = torch.rand(6, 2)
    after = torch.get_rng_state()
    for index in range(3):
        ranks._now = Ranks(index, 3, index)
        torch.manual_seed(3)
        own = ranks.rows(6)
        assert torch.equal(ranks.drawn(torch.rand, 2, 2), whole[own])
        assert torch.equal(torch.get_rng_state(), after)
    with pytest.raises(ValueError, match="multiple of 3"):
        ranks.rows(7)


@pytest.mark.usefixtures("alone")
def test_the_first_process_alone_writes(tmp_path: Path) -> None:
    from maquette.common.files import sole_writer, write_whole

    for index in (1, 0):
        ranks._now = Ranks(index, 2)
        with sole_writer(tmp_path):
            write_whole(tmp_path / "file", "text")
        assert (tmp_path / "file").exists() == (index == 0)


def test_a_process_alone_asks_nobody() -> None:
    assert ranks.now() == Ranks()
    assert ranks.share_of(7, torch.device("cpu")) == 1.0
    assert ranks.told("word") == "word"
    value = torch.ones(2)
    assert ranks.average(value) is value
    ranks.average_gradients([value])
    ranks.wait()


def test_the_command_line_loses_its_gpus() -> None:
    assert launch.without_gpus(["run", "a", "--gpus", "2", "--seed", "1"]) == [
        *("run", "a", "--seed", "1"),
    ]
    assert launch.without_gpus(["run", "--gpus=4", "b"]) == ["run", "b"]


def test_more_gpus_than_there_are_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="this machine has 1; give fewer, or --device cpu"):
        launch.on_gpus(2, None)
    assert launch.on_gpus(2, "cpu")
    assert not launch.on_gpus(1, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launch.on_gpus(2, None)


def test_the_process_that_failed_by_itself_is_named() -> None:
    def ended(code: int) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"], env=os.environ)

    for codes, named in (((0, 0), None), ((launch.LOST, 1), (1, 1)), ((0, 7), (1, 7))):
        processes = [ended(code) for code in codes]
        for process in processes:
            process.wait()
        assert launch.watch(processes, pause=0.01) == named

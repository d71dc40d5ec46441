"""What every test starts from: no network, the same random numbers; and one small finished run."""

from __future__ import annotations

import os
import signal
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported
if "PYTEST_XDIST_WORKER" in os.environ:  # tests side by side: a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels in its interpreter, on the CPU

for name in ("SIGINT", "SIGHUP"):  # ignored in the background, or under nohup: so would children
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

SMALL_RUN = {
    "coarse.prior": "exact",
    "fine.prior": "exact",
    "coarse.steps": 12,
    "coarse.checkpoint_every": 5,
    "coarse.samples": 24,
    "coarse.field.grid.levels": 4,
    "coarse.field.grid.log2_entries": 12,
    "coarse.field.hidden": 16,
    "coarse.field.density_bias": 10.0,  # a ball from the start
    "coarse.field.density_radius": 0.5,
    "coarse.occupancy.resolution": 16,
    "coarse.occupancy.start": 0.02,  # cells are dropped within these few steps
    "coarse.occupancy.every": 2,
    "handoff.resolution": 32,
    "handoff.views": 16,
    "handoff.view_resolution": 32,
    "fine.steps": 6,
    "fine.checkpoint_every": 2,
    "fine.views": 1,
    "fine.geometry.resolution": 24,
    "fine.texture.extra_levels": 1,
    "export.faces": 1500,
    "export.texture_size": 128,
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Priors that a worker keeps within a test are gone after it."""
    from maquette.common.embedded import door

    monkeypatch.setattr(door, "_kept", None)


@pytest.fixture
def maquette(monkeypatch, capfd):
    """Runs a command that ends well; returns what it printed on standard output."""

    from maquette.pipeline import main

    def call(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["maquette", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capfd.readouterr()
        assert ended.value.code == 0, told.err
        return told.out.splitlines()

    return call


@pytest.fixture(autouse=True)
def _twins_of_their_own() -> Iterator[None]:
    """Which twins a test has chosen is nothing to the next one."""
    from maquette.common import backends
    from maquette.common.config.backends import BackendsConfig

    yield
    backends.use(BackendsConfig())


@pytest.fixture(scope="session")
def small_settings() -> list[str]:
    """Options of a run that takes seconds: through all stages, but no beauty."""
    return [text for key, value in SMALL_RUN.items() for text in ("--set", f"{key}={value}")]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, small_settings: list[str]) -> Path:
    """The folder of a finished run of "a red mushroom"; not to be written to."""
    from maquette.coarse.train import run_coarse
    from maquette.common.begin import Choices, begin
    from maquette.fine.deliver import finish_export
    from maquette.fine.train import run_fine

    folder = tmp_path_factory.mktemp("small") / "run"
    choices = Choices(settings=small_settings[1::2], out=str(folder), device="cpu")
    run = begin("a red mushroom", choices)
    run_coarse(run)
    run_fine(run)
    finish_export(run)
    return folder

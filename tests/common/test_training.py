"""The loop of both stages: learning rates, checkpoints, resuming, and what ends a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maquette.common.config.models import AdamConfig
from maquette.common.config.reading import build_config
from maquette.common.errors import UserError
from maquette.common.runs.checkpoints import checkpoint_path, read_tensors, steps_on_disk
from maquette.common.runs.folder import Run, open_or_create
from maquette.common.runs.loop import (
    Learner,
    NotFiniteError,
    Together,
    cosine_decay,
    deterministic,
    train,
)
from maquette.common.runs.progress import clock, stage_progress

TOTAL, EVERY = 10, 3


class StopError(Exception):
    """Stands for the power cut."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_or_create(build_config("a red mushroom"), str(tmp_path / "run"))


def learner(final: float = 0.1) -> Learner:
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    return Learner(
        AdamConfig(learning_rate=0.05, final=final),
        {"net": net, "shift": nn.Linear(1, 1), "frozen": nn.Flatten()},
        {"shift": 0.5},
    )


def trained(run: Run, folder: Path, stop_at: int | None = None, total: int = TOTAL) -> Learner:
    """Train a small network to `total`, or until the step `stop_at` is cut off."""
    torch.manual_seed(7)
    state = learner()

    def step(index: int) -> dict[str, float]:
        if index == stop_at:
            raise StopError
        x = torch.rand(6, 2)
        target = torch.randn(6, 1)
        loss = (state.modules["shift"](state.modules["net"](x)) - target).pow(2).mean()
        state.descend(loss, index, total)
        return {"loss": float(loss.detach()), "gradient": 0.5}

    train(run, "coarse", folder, state, total, EVERY, step)
    return state


def events(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [k for k in one if not torch.equal(one[k], two[k])] == []


@pytest.mark.parametrize(
    ("progress", "final", "share"),
    [(0.0, 0.1, 1.0), (1.0, 0.1, 0.1), (0.5, 0.1, 0.55), (0.5, 1.0, 1.0), (1 / 3, 0.0, 0.75)],
)
def test_the_learning_rate_falls_along_half_a_cosine(progress, final, share) -> None:
    assert cosine_decay(progress, final) == pytest.approx(share)


def test_every_module_learns_at_its_own_rate() -> None:
    state = learner()
    assert [group["lr"] for group in state.optimizer.param_groups] == [0.05, 0.5]
    # Adam's first step is the learning rate times the gradient's sign.
    net, shift = state.modules["net"], state.modules["shift"]
    before = shift.bias.detach().clone(), net[2].bias.detach().clone()
    state.descend(shift(net(torch.ones(3, 2))).sum(), step=5, total=10)
    share = cosine_decay(0.5, 0.1)
    assert float((before[0] - shift.bias).detach()) == pytest.approx(0.5 * share, rel=1e-4)
    assert float((before[1] - net[2].bias).detach().abs()) == pytest.approx(0.05 * share, rel=1e-4)


@pytest.mark.parametrize("stop_at", range(TOTAL))
def test_a_run_cut_off_at_any_step_ends_with_the_same_bits(run: Run, stop_at: int) -> None:
    whole, cut = run.folder / "whole", run.folder / "cut"
    expected = trained(run, whole).tensors()
    with pytest.raises(StopError):
        trained(run, cut, stop_at)
    torch.rand(stop_at + 1)  # another process, another random state
    assert_same(trained(run, cut).tensors(), expected)
    assert_same(
        read_tensors(checkpoint_path(cut, TOTAL)), read_tensors(checkpoint_path(whole, TOTAL))
    )


def test_checkpoints_come_every_few_steps_and_at_the_end(run: Run) -> None:
    trained(run, run.coarse)
    told = [e["step"] for e in events(run) if e["event"] == "checkpoint"]
    assert told == [3, 6, 9, 10]
    assert [e["gradient"] for e in events(run) if e["event"] == "checkpoint"] == [0.5] * 4
    assert all(e["loss"] > 0 for e in events(run) if e["event"] == "checkpoint")
    assert steps_on_disk(run.coarse) == [9, 10]
    assert [e["event"] for e in events(run)][-1] == "stage finished"


def test_a_finished_stage_takes_no_step(run: Run) -> None:
    expected = trained(run, run.coarse).tensors()
    before = len(events(run))
    assert_same(trained(run, run.coarse, stop_at=0).tensors(), expected)
    assert len(events(run)) == before


def test_a_damaged_checkpoint_is_named_and_the_steps_are_done_again(run: Run, capsys) -> None:
    expected = trained(run, run.coarse).tensors()
    last = checkpoint_path(run.coarse, TOTAL)
    last.write_bytes(last.read_bytes()[:-20])
    assert_same(trained(run, run.coarse).tensors(), expected)
    warnings = [e["message"] for e in events(run) if e["event"] == "warning"]
    assert len(warnings) == 1
    assert "step-000010.safetensors is damaged" in warnings[0]
    assert "step-000009.safetensors" in warnings[0]
    assert warnings[0] in capsys.readouterr().err
    assert read_tensors(last).keys() == read_tensors(checkpoint_path(run.coarse, 9)).keys()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(run: Run, bad) -> None:
    def step(index: int) -> dict[str, float]:
        return {"loss": 1.0, "similarity": bad if index == 4 else 1.0}

    told = "coarse stage's similarity is not finite at step 5"
    with pytest.raises(UserError, match=told) as caught:
        train(run, "coarse", run.coarse, learner(), TOTAL, EVERY, step)
    assert "learning_rate" in str(caught.value)
    assert steps_on_disk(run.coarse) == [3]


# A regularizer that is NaN or infinite, and one whose value is fine and whose slope is not.
REGULARIZERS = {
    "nan": ("loss", lambda weight: weight.sum() * math.nan),
    "infinite": ("loss", lambda weight: weight.sum() / 0.0),
    "square root at 0": ("gradient", lambda weight: (0.0 * weight).sum().sqrt()),
    "norm of nothing": ("gradient", lambda weight: (weight - weight.detach()).pow(2).sum().sqrt()),
}


@pytest.mark.parametrize("name", REGULARIZERS)
def test_nothing_moves_if_loss_or_gradient_is_not_finite(run: Run, name: str) -> None:
    what, regularizer = REGULARIZERS[name]
    torch.manual_seed(7)
    state = learner()
    kept: dict[str, Tensor] = {}

    def step(index: int) -> dict[str, float]:
        value = state.modules["shift"](state.modules["net"](torch.rand(6, 2))).pow(2).mean()
        if index == 4:
            kept.update({key: tensor.clone() for key, tensor in state.tensors().items()})
            weight = state.modules["net"][0].weight
            value = value + regularizer(weight)
            assert math.isfinite(float(value.detach())) == (what == "gradient")
        state.descend(value, index, TOTAL)
        return {"loss": float(value.detach())}

    with pytest.raises(UserError, match=f"coarse stage's {what} is not finite at step 5"):
        train(run, "coarse", run.coarse, state, TOTAL, EVERY, step)
    assert_same(state.tensors(), kept)
    assert steps_on_disk(run.coarse) == [3]
    written = read_tensors(checkpoint_path(run.coarse, 3))
    assert all(bool(tensor.isfinite().all()) for tensor in written.values())
    assert [e["step"] for e in events(run) if e["event"] == "checkpoint"] == [3]


@pytest.mark.parametrize("name", REGULARIZERS)
def test_descend_says_which_of_the_two_is_not_finite(name: str) -> None:
    what, regularizer = REGULARIZERS[name]
    state = learner()
    before = {key: tensor.clone() for key, tensor in state.tensors().items()}
    with pytest.raises(NotFiniteError, match=f"^{what}$"):
        state.descend(regularizer(state.modules["net"][0].weight), 0, TOTAL)
    assert_same(state.tensors(), before)


def test_several_trainables_are_kept_as_one() -> None:
    first, second = learner(), learner()
    both = Together(first, critic=second)
    state = {key: value.clone() for key, value in both.tensors().items()}
    again = Together(learner(), critic=learner())
    again.load(state)
    assert_same(again.tensors(), state)
    assert any(key.startswith("critic/") for key in state)


def test_the_cpu_is_deterministic() -> None:
    deterministic(torch.device("cpu"))
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)


def test_progress_tells_stage_step_total_time_left_and_numbers_by_name(capsys) -> None:
    with stage_progress("coarse", 40, start=10) as meter:
        meter.update(10)
        meter.update(11, {"loss": 3.0})
        meter.update(12, {"loss": -0.123456, "gradient": 12.0})
        meter.update(40, {"loss": 2.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["coarse", "10/40"],
        ["coarse", "12/40"],
        ["coarse", "40/40"],
    ]
    assert "left" in lines[1]
    assert lines[1].endswith("left  loss -0.1235  gradient 12")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (7325, "2:02:05")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text

"""Failures are told by written rules, each injected here; and answered as the user chose."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maquette.common.config.models import AdamConfig
from maquette.common.config.reading import build_config
from maquette.common.runs.checkpoints import steps_on_disk
from maquette.common.runs.failure import (
    PATIENCE,
    SLOWER_TIMES,
    FailedError,
    Watch,
    failures,
    next_seed,
    rate_scale,
    record,
    slower,
)
from maquette.common.runs.folder import Run, open_or_create, open_run
from maquette.common.runs.history import read_events
from maquette.common.runs.loop import Hooks, Learner, train

TOTAL = 100


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_or_create(build_config("a red cat", device="cpu"), str(tmp_path / "run"))


def views(spread: float = 0.2) -> Tensor:
    return 0.5 + spread * (torch.rand(2, 8, 8, 3) - 0.5)


def seen(share: float) -> Tensor:
    """Opacity of which about `share` is covered."""
    flat = torch.zeros(2 * 64)
    flat[: round(share * 128)] = 1.0
    return flat.reshape(2, 8, 8)


def watched(kind: str, steps: int, first: int = 50) -> Watch:
    """A watch that saw a failure of a kind for some steps."""
    watch = Watch("coarse", TOTAL, seed=3)
    for step in range(first, first + steps):
        watch.look(
            step,
            1.0 if kind == "standing" else float(step),
            views(0.0 if kind == "flat" else 0.2),
            {"empty": seen(0.0), "full": seen(1.0)}.get(kind, seen(0.3)),
        )
    return watch


@pytest.mark.parametrize("kind", ["empty", "full", "flat", "standing"])
def test_each_rule_tells_its_failure_and_no_sooner(kind: str) -> None:
    more = 1 if kind == "standing" else 0  # the first loss has none before it
    watched(kind, PATIENCE - 1 + more)
    with pytest.raises(FailedError) as caught:
        watched(kind, PATIENCE + more)
    assert caught.value.kind == kind
    assert caught.value.step == 50 + PATIENCE + more
    line = str(caught.value)
    assert "--seed 4" in line  # the next one, so that advice is no circle
    assert "--on-failure retry" in line


@pytest.mark.parametrize("kind", ["empty", "full", "flat", "standing"])
def test_the_beginning_is_given_time(kind: str) -> None:
    watched(kind, 50, first=0)


def test_what_is_well_passes() -> None:
    watched("nothing", 50)


@pytest.mark.parametrize("kind", ["empty", "full", "flat"])
def test_a_moment_of_it_is_no_failure(kind: str) -> None:
    watch = watched(kind, PATIENCE - 1)
    watch.look(80, 0.5, views(), seen(0.4))
    for step in range(81, 81 + PATIENCE - 1):
        image = views(0.0 if kind == "flat" else 0.2)
        watch.look(step, float(step), image, seen({"empty": 0.0, "full": 1.0}.get(kind, 0.4)))


def learner() -> Learner:
    torch.manual_seed(5)
    return Learner(AdamConfig(learning_rate=0.01), {"net": nn.Linear(2, 1)}, {})


def trained(run: Run, bad: dict[int, int], on_failure: str) -> tuple[Learner, list[int]]:
    """A training whose loss is NaN at some steps, so many times each; the steps that were taken."""
    state, taken = learner(), []
    left = dict(bad)

    def step(index: int) -> dict[str, float]:
        loss = state.modules["net"](torch.ones(1, 2)).pow(2).sum()
        if left.get(index, 0) > 0:
            left[index] -= 1
            loss = loss * math.nan
        state.descend(loss, index, 12)
        taken.append(index)
        return {"loss": float(loss.detach())}

    train(
        run, "coarse", run.coarse, state, 12, 3, step, Hooks(slow=state.slow, on_failure=on_failure)
    )  # type: ignore[arg-type]
    return state, taken


def test_stopping_keeps_the_last_checkpoint_and_tells_both_ways(run: Run) -> None:
    with pytest.raises(FailedError, match="loss is not finite at step 8") as caught:
        trained(run, {7: 1}, "stop")
    assert "--on-failure retry" in str(caught.value)
    assert "learning_rate" in str(caught.value)
    assert steps_on_disk(run.coarse)[-1] == 6
    assert failures(run) == [str(caught.value)]


def test_retrying_goes_back_with_half_the_rate(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    state, taken = trained(run, {7: 2}, "retry")
    assert taken == [*range(7), 6, 6, *range(7, 12)]
    assert rate_scale(run.coarse) == 0.25
    # At the last step cosine decay is none here, so the rate is the scale alone.
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.25)
    assert "at 0.5 of the learning rate" in capfd.readouterr().err
    assert len(failures(run)) == 2


def test_a_rate_that_was_lowered_stays_so_when_the_stage_goes_on(run: Run) -> None:
    run.coarse.mkdir()
    slower(run.coarse)
    state, _ = trained(run, {}, "stop")
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_retrying_ends(run: Run) -> None:
    with pytest.raises(FailedError):
        trained(run, {7: 99}, "retry")
    assert len(failures(run)) == SLOWER_TIMES + 1
    assert slower(run.coarse) is None


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(run: Run) -> None:
    with pytest.raises(FailedError):
        trained(run, {1: 1}, "retry")
    assert rate_scale(run.coarse) == 1.0


def test_the_next_seed_is_the_run_s_from_then_on(run: Run) -> None:
    after = next_seed(run)
    assert after.config.seed == run.config.seed + 1
    assert open_run(str(run.folder)).config == after.config


def test_a_clock_that_jumps_changes_no_step_and_no_length(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back by ten years at every look: what is told of time is measured by another clock."""
    now = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr("time.time", lambda: float(next(now)))
    _, taken = trained(run, {}, "stop")
    assert taken == list(range(12))
    (ended,) = [e for e in read_events(run.folder) if e["event"] == "stage finished"]
    assert 0.0 <= ended["seconds"] < 60.0
    assert steps_on_disk(run.coarse)[-1] == 12
    trained(run, {}, "stop")  # and it is done


def test_a_line_that_was_cut_off_hides_no_failure(run: Run) -> None:
    record(run, FailedError.not_finite("fine", 3, "gradient"))
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "eve')
    assert ["gradient is not finite at step 3" in line for line in failures(run)] == [True]

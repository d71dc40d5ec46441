"""The best of several short starts: which goes on, and that it then is a run of its seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from maquette.coarse import train as coarse_train
from maquette.coarse.starts import Start, begin_with_the_best
from maquette.coarse.train import run_coarse
from maquette.common.begin import Choices, begin
from maquette.common.config.models import CoarseConfig, StartsConfig
from maquette.common.runs.checkpoints import read_latest, steps_on_disk
from maquette.common.runs.folder import Run
from maquette.common.runs.loop import NotFiniteError
from tests.conftest import SMALL_RUN


def new_run(folder: Path, **settings: object) -> Run:
    told = [f"{key}={json.dumps(value)}" for key, value in {**SMALL_RUN, **settings}.items()]
    return begin("a red mushroom", Choices(settings=told, out=str(folder), seed=3))


class Walker:
    """A state of one number that walks at random; its score is where it stands."""

    def __init__(self) -> None:
        self.place = torch.randn(1)

    def step(self, index: int) -> None:
        self.place = self.place + torch.randn(1)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"place": self.place}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.place = tensors["place"]

    def start(self) -> Start:
        return Start(self, self.step, lambda: float(self.place))


def walked(seed: int, steps: int) -> float:
    torch.manual_seed(seed)
    walker = Walker()
    for index in range(steps):
        walker.step(index)
    return float(walker.place)


def test_the_best_start_is_kept_with_its_random_numbers(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    begin_with_the_best(run, StartsConfig(count=4, steps=5), lambda: Walker().start())
    ends = [walked(3 + k, 5) for k in range(4)]
    step, tensors = read_latest(run.coarse, run.warn)
    assert step == 5
    assert tensors is not None
    assert float(tensors["place"]) == max(ends)
    event = json.loads((run.folder / "events.jsonl").read_text().splitlines()[-1])
    assert event["chosen"] == ends.index(max(ends))
    assert event["scores"] == pytest.approx(ends, abs=1e-6)


def test_a_start_that_is_not_finite_is_the_worst(tmp_path: Path) -> None:
    run, made = new_run(tmp_path / "run"), []

    def start() -> Start:
        walker = Walker()
        made.append(walker)

        def step(index: int) -> None:
            if len(made) != 2:
                raise NotFiniteError("loss")

        return Start(walker, step, lambda: -100.0)

    begin_with_the_best(run, StartsConfig(count=3, steps=2), start)
    _, tensors = read_latest(run.coarse, run.warn)
    assert tensors is not None
    assert torch.equal(tensors["place"], made[1].place)


def test_one_start_is_none_and_a_stage_under_way_takes_none(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    begin_with_the_best(run, StartsConfig(), lambda: pytest.fail("no start was asked for"))
    assert not steps_on_disk(run.coarse)
    many = StartsConfig(count=2, steps=1)
    begin_with_the_best(run, many, lambda: Walker().start())
    begin_with_the_best(run, many, lambda: pytest.fail("it is under way"))


@pytest.mark.slow
def test_a_stage_goes_on_from_its_best_start_with_the_bits_of_that_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter((0.1, 0.4))
    monkeypatch.setattr(coarse_train, "told_apart", lambda *_: next(scores))
    best = new_run(tmp_path / "best", **{"coarse.starts.count": 2, "coarse.starts.steps": 4})
    run_coarse(best)
    plain = begin(
        "a red mushroom",
        Choices(
            settings=[f"{k}={json.dumps(v)}" for k, v in SMALL_RUN.items()],
            out=str(tmp_path / "plain"),
            seed=4,
        ),
    )
    run_coarse(plain)
    ends = [read_latest(run.coarse, run.warn)[1] for run in (best, plain)]
    assert ends[0] is not None
    assert ends[1] is not None
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match=r"starts\.steps: expected fewer than the stage's 50"):
        CoarseConfig.model_validate({"steps": 50, "starts": {"count": 2, "steps": 60}})
    with pytest.raises(ValueError, match="VSD's critic"):
        CoarseConfig.model_validate({"starts": {"count": 2}, "distillation": {"loss": "vsd"}})

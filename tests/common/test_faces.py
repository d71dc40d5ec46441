"""What a prior takes views from behind for, on sets of two pictures whose answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maquette.common.begin import Choices, begin
from maquette.common.config.scene import CameraConfig
from maquette.common.embedded.exact import ExactPrior
from maquette.common.guidance import faces
from maquette.common.guidance.conditions import TextConditioner
from maquette.common.guidance.faces import (
    Faces,
    cameras_behind,
    faces_behind,
    own_and_other,
    sides_of,
    tell_faces,
)
from maquette.common.guidance.judges import Panel, Views
from maquette.common.guidance.prompts import ViewPrompts
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.losses import SDS
from maquette.common.priors.noise import cosine_schedule
from maquette.common.runs.failure import FailedError, Watch, failures, teller
from maquette.common.runs.failure import fronts as told_behind
from maquette.common.runs.folder import Run
from maquette.common.runs.history import read_events
from maquette.common.runs.stage import COARSE
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.shelf.summary import summarize
from maquette.common.shelf.tables import told_scores
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import photograph
from maquette.common.watch.fronts import LONG, FrontWatch
from tests.reference.closed_form import FiniteSetPrior

FRONT, BACK = 0.9, 0.2
"""Grey values of pictures of the front and of the back."""


def picture(value: float) -> Tensor:
    return torch.full((1, 3, 4, 4), 2.0 * value - 1.0)


PRIOR = FiniteSetPrior(
    {
        "cat, front view": picture(FRONT), "cat, back view": picture(BACK),
        "cat, side view": picture(0.5), "cat, overhead view": picture(0.5),
    },
    cosine_schedule(200),
)  # fmt: skip


def blind(prior: FiniteSetPrior = PRIOR) -> ScoreDistillation:
    prompts = ViewPrompts.encode(prior, "cat")
    return ScoreDistillation(prior, TextConditioner(prompts, tell_camera=False), SDS(), 10)


def looking(values: list[float]):
    """A scene that shows even grey of a value a camera."""

    def look(cameras: Cameras) -> Views:
        image = torch.tensor(values)[:, None, None, None].expand(-1, 4, 4, 3)
        return Views(image, cameras, torch.zeros(3), lambda: torch.ones(len(values), 4, 4))

    return look


def test_faces_are_counted() -> None:
    found = faces_behind(blind(), looking([FRONT] * 3 + [BACK] * 5), CameraConfig())
    assert found is not None
    assert found.sides == ("front",) * 3 + ("back",) * 5
    assert found.told == "looks like a front from behind: 3 of 8"


def test_what_is_neither_cant_be_told() -> None:
    middle = 0.5 * (FRONT + BACK)
    found = faces_behind(blind(), looking([middle] * 6 + [FRONT] * 2), CameraConfig())
    assert found is not None
    assert found.unsure >= 4
    assert f"can't tell: {found.unsure}" in found.told
    assert "can't tell (8)" in Faces(("unsure",) * 8).told


def test_sides_follow_the_evidence() -> None:
    assert sides_of(torch.tensor([3.0, -3.0, 1.0, float("inf")])).sides == (
        "front", "back", "unsure", "front",
    )  # fmt: skip


def test_cameras_look_from_behind_as_the_stage_does() -> None:
    cameras = cameras_behind(CameraConfig(distance=(2, 4), elevation=(20, 45), fovy=(40, 50)))
    degrees = torch.rad2deg(cameras.azimuth)
    assert (float(degrees.min()), float(degrees.max())) == pytest.approx((120.0, 240.0))
    assert cameras.distance.unique().tolist() == [3.0]
    assert math.degrees(float(cameras.elevation[0])) == pytest.approx(20.0)
    assert math.degrees(float(cameras.fovy[0])) == pytest.approx(45.0)


def test_texts_that_name_no_view_tell_nothing() -> None:
    prior = FiniteSetPrior({"cat": picture(0.5)}, cosine_schedule(200))
    prompts = ViewPrompts.encode(prior, "cat", told=True)
    conditioner = TextConditioner(prompts, tell_camera=False)
    assert own_and_other(conditioner, orbit(8)) is None
    judge = ScoreDistillation(prior, conditioner, SDS(), 10)
    assert faces_behind(judge, looking([0.5] * 8), CameraConfig()) is None


def test_a_prior_that_is_told_the_camera_is_asked_by_cameras(tmp_path: Path) -> None:
    """The exact prior takes the true back for one, and the front seen from behind for a front."""
    prior, caption = ExactPrior("pixel", 1), "an orange cat"
    prompts = ViewPrompts.encode(prior, caption, told=True)
    judge = ScoreDistillation(prior, TextConditioner(prompts), SDS(), 10)
    toy = build(caption)

    def true(cameras: Cameras) -> Views:
        image = photograph(toy, cameras, 64)
        return Views(image, cameras, torch.zeros(3), lambda: torch.ones(len(cameras), 64, 64))

    def turned(cameras: Cameras) -> Views:
        other = Cameras(
            cameras.azimuth - math.pi, cameras.elevation, cameras.distance, cameras.fovy
        )
        return Views(true(other).image, cameras, torch.zeros(3), lambda: torch.ones(8, 64, 64))

    camera = CameraConfig(distance=(3, 3), fovy=(40, 40))
    for look, side in ((true, "back"), (turned, "front")):
        found = faces_behind(judge, look, camera)
        assert found is not None
        assert found.sides == (side,) * 8


def test_it_is_said_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(faces, "say", lambda line, important=False: said.append(line))
    settings = ["coarse.prior.tell_camera=false"]
    run = begin("a red mushroom", Choices(settings=settings, out=str(tmp_path / "run")))
    panel = Panel({"prior": (blind(), 1.0)})
    tell_faces(run, COARSE, panel, looking([FRONT] * 2 + [BACK] * 6), 12)
    assert said == ["coarse: looks like a front from behind: 2 of 8"]
    last = json.loads((run.folder / "events.jsonl").read_text().splitlines()[-1])
    told = {key: last[key] for key in ("event", "stage", "step", "looked", "fronts", "unsure")}
    assert told == {
        "event": "seen from behind", "stage": "coarse", "step": 12, "looked": 8, "fronts": 2,
        "unsure": 0,
    }  # fmt: skip
    assert told_scores(summarize(run.folder).scores) == "fronts_behind 2"


def test_one_that_is_told_the_camera_is_not_asked_unless_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(faces, "say", lambda line, important=False: said.append(line))
    judge = blind()
    monkeypatch.setattr(type(judge.prior), "takes_camera", True)
    panel, look = Panel({"prior": (judge, 1.0)}), looking([BACK] * 8)
    for number, (value, lines) in enumerate((("null", 0), ("false", 0), ("true", 1))):
        settings = [f"coarse.look_behind={value}"]
        choices = Choices(settings=settings, out=str(tmp_path / str(number)))
        tell_faces(begin("a red mushroom", choices), COARSE, panel, look, 12)
        assert len(said) == lines


def test_a_look_that_fails_is_a_warning(tmp_path: Path) -> None:
    def look(cameras: Cameras) -> Views:
        raise torch.OutOfMemoryError("out of memory")

    settings = ["coarse.prior.tell_camera=false"]
    run = begin("a red mushroom", Choices(settings=settings, out=str(tmp_path / "run")))
    tell_faces(run, COARSE, Panel({"prior": (blind(), 1.0)}), look, 12)
    last = json.loads((run.folder / "events.jsonl").read_text().splitlines()[-1])
    assert "looked at the coarse stage from behind: out of memory" in json.dumps(last)


def test_a_scene_whose_sides_look_like_themselves_scores_higher() -> None:
    camera = CameraConfig()
    right = faces.told_apart(blind(), looking([FRONT] * 3 + [BACK] * 3), camera)
    many = faces.told_apart(blind(), looking([FRONT] * 6), camera)
    wrong = faces.told_apart(blind(), looking([BACK] * 3 + [FRONT] * 3), camera)
    assert right is not None
    assert many is not None
    assert wrong is not None
    assert right > 0.1 > abs(many)
    assert wrong < -0.1


@pytest.fixture
def run(tmp_path: Path) -> Run:
    settings = ["coarse.prior.tell_camera=false"]
    return begin("a red cat", Choices(settings=settings, out=str(tmp_path / "run")))


def watched(run: Run, pictures: list[float], answer: str, steps: int = 12) -> list[int]:
    """A stage of a scene that looks so from behind; the steps that drew other random numbers."""
    watch = Watch("coarse", steps, 3, teller(run, answer))  # type: ignore[arg-type]
    panel, look = Panel({"prior": (blind(), 1.0)}), looking(pictures)
    fronts = FrontWatch(run, COARSE, panel, watch, lambda cameras, step: look(cameras))
    moved = []
    for index in range(steps):
        before = torch.get_rng_state()
        fronts.look(index)
        moved += [] if torch.equal(before, torch.get_rng_state()) else [index]
    return moved


def test_many_fronts_are_a_failure_at_the_end(run: Run) -> None:
    with pytest.raises(FailedError, match="looks like a front from behind: 3 of 8") as caught:
        watched(run, [FRONT] * 3 + [BACK] * 5, "stop")
    assert (caught.value.kind, caught.value.step) == ("many fronts", 12)
    line = str(caught.value)
    assert all(word in line for word in ("--seed 4", "--on-failure retry", "--on-failure tell"))
    assert len(line) < 300
    assert told_behind(run) == {"coarse": "looks like a front from behind: 3 of 8"}


def test_a_long_stage_is_told_in_time(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    watched(run, [FRONT] * 3 + [BACK] * 5, "auto", LONG)
    seen = [e["step"] for e in read_events(run.folder) if e["event"] == faces.EVENT]
    assert seen == [750, 1000]
    assert "coarse: looks like a front from behind: 3 of 8" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("answer", "why"), [("tell", ", as --on-failure tell asks"), ("auto", ": look at its pictures")]
)
def test_who_wants_many_fronts_told_goes_on(
    run: Run, capfd: pytest.CaptureFixture[str], answer: str, why: str
) -> None:
    assert watched(run, [FRONT] * 8, answer) == []
    assert f"going on{why}" in capfd.readouterr().err
    assert len(failures(run)) == 1


@pytest.mark.parametrize("pictures", [[BACK] * 8, [FRONT] * 2 + [BACK] * 6, [0.55] * 8])
def test_few_fronts_or_an_unknown_number_are_no_failure(run: Run, pictures: list[float]) -> None:
    assert watched(run, pictures, "stop") == []
    assert failures(run) == []


def test_any_other_failure_ends_a_run_that_chose_nothing(run: Run) -> None:
    watch = Watch("coarse", 12, 3, teller(run, "auto"))
    with pytest.raises(FailedError, match="the scene is empty"):
        watch.failed("empty", 12)

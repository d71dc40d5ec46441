"""Many fronts: told by the prior's own preference, and not where the prior doesn't know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maquette.common.config.prompts import PromptConfig
from maquette.common.config.reading import build_config
from maquette.common.guidance.conditions import TextConditioner
from maquette.common.guidance.fronts import VIEWS, Verdict, count_fronts
from maquette.common.guidance.judges import Panel, Views
from maquette.common.guidance.prompts import ViewPrompts
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.losses import SDS
from maquette.common.priors.base import Condition, Prior, TextEmbedding
from maquette.common.priors.noise import cosine_schedule
from maquette.common.runs.failure import FailedError, Watch, failures, teller
from maquette.common.runs.folder import Run, open_or_create
from maquette.common.runs.history import read_events
from maquette.common.scene.cameras import Cameras
from maquette.common.watch.fronts import FrontWatch

RED, GREEN, BLUE = (0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9)
SIDES = {"front view": RED, "side view": GREEN, "back view": BLUE}
WELL, TWO, FOUR = (RED, GREEN, BLUE, GREEN), (RED, GREEN, RED, GREEN), (RED,) * 4
GREY = ((0.5, 0.5, 0.5),) * 4


class Knowing(Prior):
    """A prior that knows a red front, green sides and a blue back.

    taste: what it gets wrong about every view but the front, so that it likes fronts. group: how
    many views it judges at once.
    """

    space, resolution, takes_camera = "pixel", 4, False
    schedule = cosine_schedule(1000)

    def __init__(self, taste: float = 0.0, group: int = 1) -> None:
        self.taste, self.group = taste, group

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        colors = [SIDES.get(p.rpartition(", ")[2], (0.5, 0.5, 0.5)) for p in prompts]
        return TextEmbedding(tuple(prompts), {"color": torch.tensor(colors)})

    def encode_image(self, image: Tensor) -> Tensor:
        return 2.0 * image.permute(0, 3, 1, 2) - 1.0

    def predict_noise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        alpha, sigma = self.schedule.at(t, x_t.ndim)
        color = condition.text.tensors["color"]
        clean = (2.0 * color - 1.0)[:, :, None, None].expand_as(x_t)
        front = (color == torch.tensor(RED)).all(dim=1)[:, None, None, None]
        return (x_t - alpha * clean) / sigma + torch.where(front, 0.0, self.taste)


def judge(prior: Prior, config: PromptConfig | None = None) -> ScoreDistillation:
    """A prior's opinion of a cat."""
    prompts = ViewPrompts.encode(prior, "a cat", config)
    conditioner = TextConditioner(prompts, tell_camera=False)
    return ScoreDistillation(prior, conditioner, SDS(guidance_scale=1.0), 100)


def painted(colors: Sequence[tuple[float, float, float]], cameras: Cameras = VIEWS) -> Views:
    """Views of one colour each."""
    image = torch.tensor(colors)[:, None, None, :].expand(4, 4, 4, 3)
    return Views(image, cameras, torch.zeros(3), lambda: torch.ones(4, 4, 4))


@pytest.mark.parametrize(("colors", "fronts"), [(WELL, 1), (TWO, 2), (FOUR, 4)])
def test_fronts_are_counted(colors: Sequence[tuple[float, float, float]], fronts: int) -> None:
    assert count_fronts(judge(Knowing()), painted(colors), 0) == Verdict(fronts)
    assert Verdict(fronts).many == (fronts > 1)


def test_what_is_yet_to_form_is_no_front() -> None:
    """Nearer to the front than to the back, but neither: a shape that is yet to form."""
    found = count_fronts(judge(Knowing()), painted([(0.51, 0.5, 0.5)] * 4), 0)
    assert found.fronts is None
    assert not found.many


@pytest.mark.parametrize(
    ("prior", "config", "colors", "why"),
    [
        (Knowing(), PromptConfig(view_dependent=False), FOUR, "told the same of every view"),
        (Knowing(group=4), None, FOUR, "judges views together"),
        (Knowing(), None, GREY, "doesn't know the front"),
        (Knowing(taste=30.0), None, FOUR, "its own views of other sides for the front"),
    ],
)
def test_a_prior_that_doesn_t_know_says_so(
    prior: Knowing, config: PromptConfig | None, colors: object, why: str
) -> None:
    found = count_fronts(judge(prior, config), painted(colors), 0)  # type: ignore[arg-type]
    assert found.fronts is None
    assert not found.many
    assert why in str(found)
    assert "can't tell" in str(found)


def test_views_of_another_count_are_refused() -> None:
    some = painted(WELL)
    with pytest.raises(ValueError, match="expected those of VIEWS"):
        count_fronts(judge(Knowing()), Views(some.image, VIEWS[:2], *[some.backdrop] * 2), 0)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_or_create(build_config("a red cat", device="cpu"), str(tmp_path / "run"))


class Grown:
    """A subject that is painted as it is told."""

    def __init__(self, colors: Sequence[tuple[float, float, float]]) -> None:
        self.colors = colors

    def judged(self, cameras: Cameras, step: int) -> Views:
        return painted(self.colors, cameras)


def watched(run: Run, colors: Sequence[tuple[float, float, float]], answer: str) -> list[int]:
    """A stage of twelve steps over such a subject; the steps that drew other random numbers."""
    watch = Watch("coarse", 12, 3, teller(run, answer))  # type: ignore[arg-type]
    panel = Panel({"prior": (judge(Knowing()), 1.0)})
    fronts = FrontWatch(run, Grown(colors), panel, watch)  # type: ignore[arg-type]
    moved = []
    for index in range(12):
        before = torch.get_rng_state()
        fronts.look(index)
        moved += [] if torch.equal(before, torch.get_rng_state()) else [index]
    return moved


def test_many_fronts_are_told_in_time_and_a_failure_at_the_end(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FailedError, match="2 of 4 views are taken for the front") as caught:
        watched(run, TWO, "stop")
    assert (caught.value.kind, caught.value.step) == ("many fronts", 12)
    line = str(caught.value)
    assert "--seed 4" in line
    assert "--on-failure retry" in line
    assert "--on-failure tell" in line
    assert len(line) < 300
    assert "coarse at step 9: 2 of 4 views are taken for the front" in capfd.readouterr().err
    seen = [(e["step"], e["fronts"]) for e in read_events(run.folder) if e["event"] == "fronts"]
    assert seen == [(9, 2), (12, 2)]


@pytest.mark.parametrize(
    ("answer", "why"), [("tell", "as --on-failure tell asks"), ("auto", "look at its pictures")]
)
def test_who_wants_it_told_goes_on(
    run: Run, capfd: pytest.CaptureFixture[str], answer: str, why: str
) -> None:
    assert watched(run, FOUR, answer) == []
    assert f"going on{',' if answer == 'tell' else ':'} {why}" in capfd.readouterr().err
    assert len(failures(run)) == 1


def test_any_other_failure_ends_a_run_that_chose_nothing(run: Run) -> None:
    watch = Watch("coarse", 12, 3, teller(run, "auto"))
    with pytest.raises(FailedError, match="the scene is empty"):
        watch.failed("empty", 12)


@pytest.mark.parametrize("colors", [WELL, GREY])
def test_one_front_or_an_unknown_number_is_no_failure(
    run: Run, colors: Sequence[tuple[float, float, float]]
) -> None:
    assert watched(run, colors, "stop") == []
    assert failures(run) == []
    assert [e["fronts"] for e in read_events(run.folder) if e["event"] == "fronts"][-1] in (1, None)

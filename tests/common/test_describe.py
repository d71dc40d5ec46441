"""What a picture shows, asked of a prior: the caption, and from where it was taken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from maquette.common.begin import Choices, begin
from maquette.common.config.priors import PriorConfig
from maquette.common.embedded.door import load
from maquette.common.errors import UserError
from maquette.common.guidance import describe as module
from maquette.common.guidance.conditions import Rows, TextConditioner
from maquette.common.guidance.describe import Candidate, describe, own_colors
from maquette.common.guidance.prepare import prepare_judges
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.priors.base import Condition, Prior, TextEmbedding
from maquette.common.priors.camera_features import BUFFER
from maquette.common.priors.noise import cosine_schedule
from maquette.common.runs.folder import Run, open_run
from maquette.common.runs.stage import COARSE
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.toybox.grammar import COLORS, Caption, paints, parse
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import BACKDROP, cutouts

MAGENTA = torch.tensor(BACKDROP)
AZIMUTH, ELEVATION = math.radians(130.0), math.radians(10.0)


def camera(azimuth: float = 0.0, elevation: float = 0.0) -> Cameras:
    return Cameras(*(torch.tensor([v]) for v in (azimuth, elevation, 3.0, math.radians(40.0))))


class KnowsOne(Prior):
    """Finds the noise the worse, the less is true of what it is told."""

    space, resolution, takes_camera, schedule = "pixel", 8, True, cosine_schedule(50)

    def __init__(self, caption: Caption, azimuth: float, elevation: float) -> None:
        self.caption, self.place = caption, (azimuth, elevation)
        self.rows = 0

    def encode_text(self, prompts) -> TextEmbedding:
        return TextEmbedding(tuple(prompts), {})

    def encode_image(self, image: Tensor) -> Tensor:
        return 2.0 * image.permute(0, 3, 1, 2) - 1.0

    def predict_noise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.cameras is not None
        self.rows += len(x_t)
        told, truth = [parse(p) for p in condition.text.prompts], self.caption
        wrong = torch.tensor(
            [
                2.0 * (c.category != truth.category)
                + sum(getattr(c, n) != getattr(truth, n) for n in ("color", "second", "pattern"))
                for c in told
            ]
        )
        turn = torch.remainder(condition.cameras.azimuth - self.place[0] + math.pi, 2 * math.pi)
        wrong = wrong + (turn - math.pi).abs()
        wrong = wrong + (condition.cameras.elevation - self.place[1]).abs()
        alpha, sigma = self.schedule.at(t)
        clean = 2.0 * self.picture.permute(0, 3, 1, 2) - 1.0
        # Off at random, as answers are: each row's error has the noise's own shape.
        return (x_t - alpha * clean) / sigma * (1.0 + 0.1 + 0.2 * wrong[:, None, None, None])

    picture = torch.zeros(1, 8, 8, 3)


@pytest.mark.parametrize("known", [True, False])
def test_caption_and_angles_are_those_under_which_the_noise_is_found_best(known: bool) -> None:
    truth = parse("a striped teal and yellow fish")
    prior = KnowsOne(truth, math.radians(203.0), math.radians(17.0))
    rgba = torch.cat([torch.tensor(COLORS["teal"]), torch.ones(1)]).expand(8, 8, 4)
    prior.picture = rgba[None, ..., :3]
    elevation = math.radians(17.0) if known else None
    found = describe(prior, rgba, camera(), elevation, MAGENTA)
    assert found.caption == truth
    assert abs(math.remainder(found.azimuth - math.radians(203.0), 2 * math.pi)) < math.radians(3)
    assert abs(found.elevation - math.radians(17.0)) < (1e-6 if known else math.radians(4.0))
    assert prior.rows < (2500 if known else 4500)
    again = describe(prior, rgba, camera(), elevation, MAGENTA)
    assert again == found


def test_a_known_caption_leaves_the_angles_alone_to_be_found() -> None:
    truth = parse("a red mug")
    prior = KnowsOne(truth, math.radians(-50.0), 0.0)
    rgba = torch.cat([torch.tensor(COLORS["red"]), torch.ones(1)]).expand(8, 8, 4)
    prior.picture = rgba[None, ..., :3]
    found = describe(prior, rgba, camera(), 0.0, MAGENTA, Caption("mug", "blue"))
    assert found.caption == Caption("mug", "blue")
    assert abs(math.remainder(found.azimuth + math.radians(50.0), 2 * math.pi)) < math.radians(3)
    assert prior.rows < 250


def test_a_plainer_caption_is_taken_unless_another_is_clearly_better() -> None:
    """Of two captions whose errors hardly differ, the one of fewer words."""
    plain, painted = Caption("duck", "yellow"), Caption("duck", "yellow", "red")

    class Unsure(KnowsOne):
        gain, chance = 0.0, torch.Generator()

        def predict_noise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            better = torch.tensor(
                [self.gain * (parse(p) == painted) for p in condition.text.prompts]
            )
            chance = torch.rand(len(x_t), generator=self.chance) * 0.1
            return x_t + (1.0 - better + chance)[:, None, None, None]

    x = torch.zeros(1, 3, 8, 8)
    both = [Candidate(c, 0.0, 0.0) for c in (plain, painted)]
    for gain, wanted in ((0.01, plain), (0.5, painted)):
        prior = Unsure(plain, 0.0, 0.0)
        prior.gain, prior.chance = gain, torch.Generator().manual_seed(3)
        jury = module._Jury(prior, x, camera(), 0)
        assert jury.plainest(both, (0.5,), 12).caption == wanted


@pytest.mark.parametrize("toy", ["a brown bear", "a teal car", "a purple penguin", "a pink house"])
def test_a_picture_s_own_colours_are_named(toy: str) -> None:
    rgba = cutouts(build(toy), camera(AZIMUTH, ELEVATION), 64)[0]
    assert parse(toy).color in own_colors(rgba)


def test_paints_are_all_of_a_category() -> None:
    found = paints(parse("a red mug"))
    assert len(found) == len(set(found)) == 11 * 11 * 4
    assert {c.category for c in found} == {"mug"}
    assert parse("a dotted teal and white mug") in found


def test_the_embedded_prior_reads_a_picture_it_was_never_shown(monkeypatch) -> None:
    """A pair that training held out, in proportions that it never had, among three categories."""
    some = ("robot", "owl", "mug")
    monkeypatch.setattr(module, "CATEGORIES", some)
    monkeypatch.setattr(module, "paints", lambda c: [c, Caption(c.category, "black")])
    rgba = cutouts(build(parse("a white robot"), 1001), camera(AZIMUTH, ELEVATION), 128)[0]
    prior = load(PriorConfig(name="toybox-pixel"))
    found = describe(prior, rgba, camera(), ELEVATION, MAGENTA)
    assert found.caption.text == "a white robot"
    assert abs(math.remainder(found.azimuth - AZIMUTH, 2 * math.pi)) < math.radians(6.0)
    assert found.psnr > module.LEAST_PSNR
    noise = torch.rand(64, 64, 4, generator=torch.Generator().manual_seed(0))
    noise[..., 3] = 1.0
    found = describe(prior, noise, camera(), 0.0, MAGENTA, Caption("mug", "red"))
    assert found.psnr < module.LEAST_PSNR


def test_cameras_are_told_turned_and_so_is_a_surface() -> None:
    prior = KnowsOne(parse("a red mug"), 0.0, 0.0)
    from maquette.common.guidance.prompts import ViewPrompts

    prompts = ViewPrompts.encode(prior, "a red mug", told=True)
    told, plain = (TextConditioner(prompts, turn=turn).rows(orbit(4)) for turn in (0.5, 0.0))
    for condition in (told.wanted, told.empty):
        assert condition.cameras is not None
        torch.testing.assert_close(condition.cameras.azimuth, orbit(4).azimuth + 0.5)
    surface = torch.randn(4, BUFFER, 2, 2)
    seen = told.on(surface).wanted.surface
    assert seen is not None
    c, s = math.cos(0.5), math.sin(0.5)
    x, y = surface[:, 4], surface[:, 5]
    torch.testing.assert_close(seen[:, 4], c * x - s * y)
    torch.testing.assert_close(seen[:, 5], s * x + c * y)
    assert torch.equal(seen[:, 6], surface[:, 6])
    assert plain.on(surface).wanted.surface is surface
    assert isinstance(told, Rows)


@pytest.fixture
def pictured(tmp_path: Path, small_settings: list[str]) -> Run:
    path = tmp_path / "duck.png"
    rgba = cutouts(build("a blue duck"), camera(AZIMUTH, ELEVATION), 128)[0]
    Image.fromarray((rgba * 255.0 + 0.5).to(torch.uint8).numpy()).save(path)
    settings = [*small_settings[1::2], "image.size=128", "image.fill=0", "coarse.prior=toybox"]
    choices = Choices(
        settings=settings, images=[str(path)], elevation="10", out=str(tmp_path / "run"),
        device="cpu",
    )  # fmt: skip
    return begin("a blue duck", choices)


def test_a_run_asks_once_and_its_cameras_are_told_from_the_toy_s_front(pictured: Run) -> None:
    def conditioner(run: Run) -> TextConditioner:
        judge = prepare_judges(run, COARSE, torch.device("cpu")).judges["prior"][0]
        assert isinstance(judge, ScoreDistillation)
        assert isinstance(judge.conditioner, TextConditioner)
        return judge.conditioner

    first = conditioner(pictured)
    assert abs(math.remainder(first.turn - AZIMUTH, 2 * math.pi)) < math.radians(6.0)
    assert set(first.prompts.views.prompts) == {"a blue duck"}
    shown = pictured.folder / "image" / "shown.json"
    said = json.loads(shown.read_text("utf-8"))
    shown.write_text(json.dumps(said | {"azimuth": 1.0}), "utf-8")
    resumed = conditioner(open_run(str(pictured.folder)))
    assert resumed.turn == 1.0  # what was found before is not asked again
    assert set(resumed.prompts.views.prompts) == {"a blue duck"}
    lines = (pictured.folder / "events.jsonl").read_text("utf-8").splitlines()
    assert sum(json.loads(line)["event"] == "toy found" for line in lines) == 1
    shown.write_text("{", "utf-8")
    with pytest.raises(UserError, match="is damaged"):
        conditioner(pictured)

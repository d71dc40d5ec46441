"""Judges of a picture's run: a text prior, an image prior and the picture's own view together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maquette.coarse.nerf import Nerf
from maquette.common.begin import Choices, begin
from maquette.common.config.reading import build_config, shipped_configs
from maquette.common.errors import UserError
from maquette.common.guidance.ask import Ask
from maquette.common.guidance.conditions import ImageConditioner, TextConditioner
from maquette.common.guidance.prepare import prepare_judges, shows_picture
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.runs.folder import Run
from maquette.common.runs.stage import COARSE, FINE
from maquette.common.scene.cameras import orbit
from maquette.common.scene.views import sample_views
from tests.reference.tiny_models import build, build_mvdream, build_zero123


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("models")
    return {
        "sd": str(build("sd15", place / "sd")),
        "zero123": str(build_zero123(place / "zero123")),
        "mvdream": str(build_mvdream(place / "mvdream")),
        "pictured": str(build("pictured-pixel", place / "pictured")),
    }


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    values = np.zeros((80, 80, 4), dtype=np.uint8)
    values[20:60, 30:50] = (200, 40, 30, 255)
    path = tmp_path_factory.mktemp("pictures") / "box.png"
    Image.fromarray(values).save(path)
    return str(path)


def begun(prompt: str, picture: str | None, out: Path, small: list[str], **settings) -> Run:
    pairs = [f"{key}={value}" for key, value in settings.items()]
    pairs = [p.replace("__", ".") for p in pairs]
    choices = Choices(
        settings=[*small, "image.size=64" if picture else "seed=0", "coarse.views=4", *pairs],
        images=[picture] if picture else [],
        out=str(out),
        device="cpu",
    )
    return begin(prompt, choices)


def test_both_priors_and_the_picture_judge_together(
    models: dict[str, str], picture: str, tmp_path: Path, small_settings: list[str]
) -> None:
    """Magic123's three: each with its own loss and weight, and none knows of another."""
    run = begun(
        "a red chair",
        picture,
        tmp_path / "run",
        small_settings[1::2],
        coarse__prior=models["sd"],
        coarse__image_prior=models["zero123"],
        coarse__judges__image_prior=40.0,
        coarse__distillation__guidance_scale=100.0,
    )
    panel = prepare_judges(run, COARSE, torch.device("cpu"))
    assert list(panel.judges) == ["prior", "image_prior", "reference"]
    assert [weight for _, weight in panel.judges.values()] == [1.0, 40.0, 1.0]
    text, image = (panel.judges[name][0] for name in ("prior", "image_prior"))
    assert isinstance(text, ScoreDistillation)
    assert isinstance(image, ScoreDistillation)
    assert (text.loss.guidance_scale, image.loss.guidance_scale) == (100.0, 5.0)
    assert isinstance(text.conditioner, TextConditioner)
    assert isinstance(image.conditioner, ImageConditioner)
    assert {p.name for p in run.coarse.iterdir()} >= {"prior.json", "image_prior.json"}
    config = run.config.coarse
    scene = Nerf(config, torch.device("cpu"))
    scene.prepare(0)
    cameras, lights = sample_views(config.camera, config.light, 4, 0, torch.device("cpu"))
    views, _ = scene.render(cameras, lights, 0)
    judged = panel(views, 0)
    judged.loss.backward()
    grads = [p.grad for p in scene.field.parameters() if p.grad is not None]
    assert grads
    assert all(bool(g.isfinite().all()) for g in grads)
    assert {"gradient", "image_prior gradient", "reference psnr"} <= judged.watch.keys()
    again = prepare_judges(run, COARSE, torch.device("cpu"))  # as a resumed stage does
    assert list(again.judges) == list(panel.judges)


@pytest.mark.parametrize("prompt", ["", "a red chair"])
def test_a_network_that_takes_a_picture_is_told_it(
    models: dict[str, str], picture: str, tmp_path: Path, small_settings: list[str], prompt: str
) -> None:
    """With the prompt, if there is one, and where each view lies from the picture, nothing else."""
    run = begun(
        prompt,
        picture,
        tmp_path / "run",
        small_settings[1::2],
        coarse__prior=models["pictured"],
        image__elevation=13,
    )
    judge = prepare_judges(run, COARSE, torch.device("cpu")).judges["prior"][0]
    assert isinstance(judge, ScoreDistillation)
    assert isinstance(judge.conditioner, ImageConditioner)
    assert set(judge.conditioner.prompts.views.prompts) == {prompt}
    cameras = orbit(3)
    rows = judge.conditioner.rows(cameras)
    assert rows.wanted.cameras is None
    reference = rows.wanted.reference
    assert reference is not None
    assert torch.equal(reference.views.azimuth, cameras.azimuth)
    assert not reference.cameras.azimuth.any()
    assert math.degrees(float(reference.cameras.elevation[0])) == pytest.approx(13.0, abs=0.01)
    assert (rows.empty.cameras, rows.empty.reference) == (None, None)
    # Before white, as in its training: the corners are white, the middle is the box's red.
    side = reference.x.shape[-1]
    assert float(reference.x[0, :, 0, 0].min()) == 1.0
    middle = reference.x[0, :, side // 2, side // 2]
    assert float(middle[0]) > 0.4 > -0.4 > float(middle[1])
    x_t, t = torch.randn(3, *judge.prior.encode_image(torch.rand(1, 32, 32, 3)).shape[1:]), 400
    asked = Ask(judge.prior, rows, 2.0).guided(x_t, torch.full((3,), t), 2.0)
    each = [
        judge.prior.predict_noise(x_t, torch.full((3,), t), rows[name])
        for name in ("wanted", "empty")
    ]
    torch.testing.assert_close(asked, each[1] + 2.0 * (each[0] - each[1]), atol=1e-5, rtol=0)
    assert float((each[0] - each[1]).abs().max()) > 1e-4


def test_a_prior_that_says_what_a_picture_shows_is_shown_it_only_if_asked(
    models: dict[str, str],
) -> None:
    """What the embedded latent network makes of a picture is worth less than the words for it."""
    for name, settings, expected in (
        ("toybox", [], False),
        ("toybox", ["fine.prior.show_image=true"], True),
        ("toybox", ["fine.prior.show_image=true", "fine.prior.tell_image=false"], False),
        (models["pictured"], [], True),
    ):
        config = build_config("a red chair", "toybox", [f"fine.prior.name={name}", *settings])
        assert shows_picture(True, config.fine, FINE, pictured=True) is expected
        assert not shows_picture(True, config.fine, FINE, pictured=False)
        assert not shows_picture(False, config.fine, FINE, pictured=True)


def test_four_views_are_drawn_for_mvdream(
    models: dict[str, str], tmp_path: Path, small_settings: list[str]
) -> None:
    settings = {"coarse__prior": models["mvdream"], "coarse__text__suffix": ", 3d asset"}
    # Its configuration speaks of both stages; the exact prior of the fine one has its own words.
    loss = {"coarse__distillation": "recon", "fine__text__suffix": "", "fine__resolution": 512}
    run = begun("a red chair", None, tmp_path / "run", small_settings[1::2], **settings, **loss)
    panel = prepare_judges(run, COARSE, torch.device("cpu"))
    judge = panel.judges["prior"][0]
    assert isinstance(judge, ScoreDistillation)
    assert panel.group == 4
    assert isinstance(judge.conditioner, TextConditioner)
    assert set(judge.conditioner.prompts.views.prompts) == {"a red chair, 3d asset"}
    config = run.config.coarse
    cameras, _ = sample_views(config.camera, config.light, 4, 0, torch.device("cpu"), panel.group)
    turns = torch.remainder(cameras.azimuth - cameras.azimuth[0], 2 * torch.pi)
    torch.testing.assert_close(turns, torch.arange(4) * torch.pi / 2, atol=1e-5, rtol=0)
    x, t, noise = torch.randn(4, 4, 8, 8), torch.full((4,), 300), torch.randn(4, 4, 8, 8)
    rows = judge.conditioner.rows(cameras)
    image = torch.zeros(4, 64, 64, 3)
    found = judge.loss.gradient(x, image, t, noise, Ask(judge.prior, rows, 50.0, "one")).x
    assert bool(found.isfinite().all())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"coarse__prior": "{zero123}", "prompt": "a red chair"}, "reads no prompt"),
        ({"coarse__prior": "{zero123}", "picture": None, "prompt": "a red chair"}, "--image"),
        ({"coarse__prior": "{sd}", "prompt": ""}, "takes no picture"),
        ({"coarse__prior": "{mvdream}", "prompt": ""}, "takes no picture"),
        ({"coarse__prior": "{pictured}", "image__elevation": "auto", "prompt": ""}, "can't tell"),
        (
            {"prompt": "", "coarse__prior": "toybox", "coarse__prior__tell_camera": False},
            "takes no picture",
        ),
        (
            {"prompt": "", "coarse__prior": "toybox", "coarse__prior__tell_image": False},
            "takes no picture",
        ),
        (
            {"coarse__prior": "{sd}", "coarse__judges__image_prior": 1, "picture": None,
             "prompt": "a red chair"},
            "image_prior needs a picture",
        ),
        (
            {"coarse__prior": "{mvdream}", "coarse__prior__tell_camera": False,
             "prompt": "a red chair"},
            "must know the cameras",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_told(
    models: dict[str, str],
    picture: str,
    tmp_path: Path,
    small_settings: list[str],
    settings: dict,
    words: str,
) -> None:
    given = {k: v.format(**models) if isinstance(v, str) else v for k, v in settings.items()}
    prompt, path = given.pop("prompt"), given.pop("picture", picture)
    with pytest.raises(UserError, match=words):
        begun(prompt, path, tmp_path / "run", small_settings[1::2], **given)
    assert list(tmp_path.iterdir()) == []


def test_the_configurations_for_pictures_are_whole() -> None:
    names = {"zero123", "stable-zero123", "magic123", "realfusion", "mvdream"}
    assert names <= set(shipped_configs())
    for name in names:
        config = build_config("a red chair", name)
        assert config.coarse.prior.name != "exact"
    stable = build_config("a red chair", "stable-zero123").coarse
    assert (stable.prior.pose, stable.distillation.guidance_scale) == ("stable", 3.0)
    assert build_config("a red chair", "magic123").coarse.judges.image_prior == 40.0

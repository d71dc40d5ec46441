"""The right settings come with the model: by its family, told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from maquette.common.begin import Choices, begin, derive
from maquette.common.config.priors import PriorConfig
from maquette.common.config.reading import build_config
from maquette.common.embedded.names import EMBEDDED
from maquette.common.errors import UserError
from maquette.common.guidance.suited import suited_to
from maquette.common.runs.folder import open_run
from tests.reference.tiny_models import Family, build

PROMPT = "a corgi in a hat"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    families: tuple[Family, ...] = ("sd15", "sd2v", "sdxl", "if", "sd3", "flux")
    return {family: build(family, folder / family) for family in families}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("sd15", "magic3d-sd15"),
        ("sd2v", "magic3d-sd15"),
        ("sdxl", "sdxl"),
        ("sd3", "sd3"),
        ("flux", "flux"),
    ],
)
def test_a_folder_brings_the_settings_of_its_family(
    family: str, name: str, models: dict[str, Path], tmp_path: Path, capfd
) -> None:
    prior = str(models[family])
    run = begin(PROMPT, Choices(prior=prior, out=str(tmp_path / "run"), device="cpu"))
    pairs = [f"{stage}.prior.name={prior}" for stage in ("coarse", "fine")]
    assert run.config == build_config(PROMPT, name, pairs, device="cpu")
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert f"configuration: {name}" in told


def test_a_pixel_model_is_half_of_a_pair(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="works on pixels at 32 px") as caught:
        begin(PROMPT, Choices(prior=str(models["if"]), out=str(tmp_path / "run"), device="cpu"))
    assert "--set fine.prior=NAME" in str(caught.value)
    assert not (tmp_path / "run").exists()
    pair = [f"coarse.prior={models['if']}", f"fine.prior={models['sd15']}"]
    run = begin(PROMPT, Choices(settings=pair, out=str(tmp_path / "run"), device="cpu"))
    assert run.config == build_config(PROMPT, "magic3d-if-sd", pair, device="cpu")


def test_a_file_without_a_base_differs_from_what_suits_its_prior(
    models: dict[str, Path], tmp_path: Path, capfd
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("coarse: {steps: 7}\n")
    plain = begin("a red cat", Choices(config=str(file), out=str(tmp_path / "a"), device="cpu"))
    assert plain.config == build_config("a red cat", None, ["coarse.steps=7"], device="cpu")
    assert capfd.readouterr().err == ""
    prior = models["sdxl"]
    file.write_text(f"coarse: {{steps: 7, prior: {prior}}}\nfine: {{prior: {prior}}}\n")
    run = begin(PROMPT, Choices(config=str(file), out=str(tmp_path / "b"), device="cpu"))
    pairs = [f"coarse.prior={prior}", f"fine.prior={prior}", "coarse.steps=7"]
    assert run.config == build_config(PROMPT, "sdxl", pairs, device="cpu")
    assert "configuration: sdxl" in capfd.readouterr().err


def test_weights_of_the_toybox_are_toybox() -> None:
    pixel = PriorConfig(name=str(EMBEDDED["toybox-pixel"]))
    assert suited_to(pixel, pixel) is None
    assert suited_to(PriorConfig(name="toybox"), PriorConfig(name="toybox")) is None
    assert suited_to(PriorConfig(name="exact"), PriorConfig(name="exact")) == "exact"


@pytest.mark.parametrize(
    ("coarse", "fine", "names"),
    [
        ("toybox", "sd15", ("toybox", "magic3d-sd15")),
        ("sdxl", "sd15", ("sdxl", "magic3d-sd15")),
        ("mvdream", "sd3", ("mvdream", "sd3")),
        ("sd15", "toybox", ("magic3d-sd15", "toybox")),
    ],
)
def test_each_stage_takes_what_suits_its_own_prior(
    coarse: str, fine: str, names: tuple[str, str]
) -> None:
    assert suited_to(PriorConfig(name=coarse), PriorConfig(name=fine)) == names


def test_settings_of_one_family_don_t_reach_the_other_stage(
    models: dict[str, Path], tmp_path: Path, capfd
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"coarse: {{prior: {models['sdxl']}}}\nfine: {{prior: {models['sd15']}}}\n")
    run = begin(PROMPT, Choices(config=str(file), out=str(tmp_path / "run"), device="cpu"))
    names = {"coarse": str(models["sdxl"]), "fine": str(models["sd15"])}
    for stage, name in (("coarse", "sdxl"), ("fine", "magic3d-sd15")):
        pairs = [f"{each}.prior.name={place}" for each, place in names.items()]
        whole = build_config(PROMPT, name, pairs, device="cpu")
        assert getattr(run.config, stage) == getattr(whole, stage)
    told = capfd.readouterr().err
    assert "the coarse stage's of sdxl" in told
    assert "the fine stage's of magic3d-sd15" in told


def test_another_fine_prior_brings_its_own_settings(
    models: dict[str, Path], small_run: Path, tmp_path: Path, capfd
) -> None:
    out = str(tmp_path / "fine")
    run = derive(str(small_run), None, Choices(prior=str(models["sd15"]), out=out, device="cpu"))
    pairs = [f"fine.prior.name={models['sd15']}"]
    whole = build_config("a red mushroom", "magic3d-sd15", pairs, device="cpu")
    assert run.config.fine == whole.fine
    assert run.config.coarse == open_run(str(small_run)).config.coarse
    assert "the fine stage's of magic3d-sd15" in capfd.readouterr().err
    same = derive(str(small_run), "a red cat", Choices(out=str(tmp_path / "same"), device="cpu"))
    assert same.config.fine.steps == open_run(str(small_run)).config.fine.steps


def test_a_latent_model_in_the_coarse_stage_is_told(tmp_path: Path, capfd) -> None:
    pair = ["coarse.prior=toybox-latent"]
    begin("a red cat", Choices(settings=pair, out=str(tmp_path / "run"), device="cpu"))
    told = capfd.readouterr().err
    assert "renders 64 px, enlarged to the 512 px that toybox-latent sees" in told
    begin("a red cat", Choices(out=str(tmp_path / "plain"), device="cpu"))
    assert capfd.readouterr().err == ""


def test_painting_by_a_prior_that_is_not_told_the_camera_is_told(tmp_path: Path, capfd) -> None:
    blind = ["fine.prior.tell_camera=false"]
    begin("a red cat", Choices(settings=blind, out=str(tmp_path / "run"), device="cpu"))
    told = capfd.readouterr().err
    assert "fine.paint_from=40" in told
    assert "--config blind" in told
    begin("a red cat", Choices("blind", out=str(tmp_path / "plain"), device="cpu"))
    assert capfd.readouterr().err == ""


def test_a_caption_outside_the_toybox_names_the_prior_that_cannot(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        begin(PROMPT, Choices(out=str(tmp_path / "run")))
    line = str(caught.value)
    assert "the default prior, toybox" in line
    assert "--prior sd15" in line

"""The right settings come with the model: by its family, told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from maquette.common.begin import Choices, begin
from maquette.common.config.priors import PriorConfig
from maquette.common.config.reading import build_config
from maquette.common.embedded.names import EMBEDDED
from maquette.common.errors import UserError
from maquette.common.guidance.choose import suited_to
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
    assert suited_to(PriorConfig(name="toybox"), PriorConfig(name="sd15")) == "magic3d-sd15"


def test_a_caption_outside_the_toybox_names_the_prior_that_cannot(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        begin(PROMPT, Choices(out=str(tmp_path / "run")))
    line = str(caught.value)
    assert "the default prior, toybox" in line
    assert "--prior sd15" in line

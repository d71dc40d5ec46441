"""From the configuration to a prior: what is passed on, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from maquette.common.begin import Choices, begin
from maquette.common.config.models import RunConfig
from maquette.common.config.priors import PriorConfig, parse_lora
from maquette.common.config.prompts import CONFLICTING_WORDS, PHRASES, PromptConfig
from maquette.common.config.reading import build_config, read_config_file
from maquette.common.embedded import door
from maquette.common.embedded.names import EMBEDDED, for_space
from maquette.common.errors import UserError
from maquette.common.guidance import choose
from maquette.common.guidance.choose import check_prompts, with_absolute_paths
from maquette.common.guidance.suited import SUITED
from maquette.common.priors import loading
from maquette.common.priors.location import ALIASES
from maquette.common.runs.stage import FINE
from tests.reference.tiny_models import build

CPU = torch.device("cpu")
EXACT = ("coarse.prior=exact", "fine.prior=exact")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: build(name, root / name) for name in ("if", "sd15")}


def complaint(*settings: str, prompt: str = "a red chair") -> str:
    with pytest.raises(UserError) as error:
        check_prompts(build_config(prompt, None, settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_name_that_offers_a_prior_a_space_gives_each_stage_its_own() -> None:
    both = PriorConfig(name="toybox", dtype="float32")
    assert for_space(both, "pixel") == PriorConfig(name="toybox-pixel", dtype="float32")
    assert for_space(both, "latent").name == "toybox-latent"
    assert for_space(PriorConfig(name="sd15"), "pixel") == PriorConfig(name="sd15")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a:-1", ("a", -1.0)),
        (r"C:\loras\a.safetensors", (r"C:\loras\a.safetensors", 1.0)),
        (r"C:\loras\a.safetensors:.5", (r"C:\loras\a.safetensors", 0.5)),
        (":2", (":2", 1.0)),
    ],
)
def test_lora_weights_stand_behind_the_last_colon(text: str, expected: tuple[str, float]) -> None:
    assert parse_lora(text) == expected


def test_settings_in_short_and_in_numbers() -> None:
    config = build_config(
        "x",
        None,
        ["fine.distillation=sdi", "coarse.prior=sd15", "coarse.prior.vram=12", "fine.prior.vram=8"],
    )
    assert config.fine.distillation.loss == "sdi"
    before = build_config("x").fine.distillation.model_dump(exclude={"loss"})
    kept = config.fine.distillation.model_dump(include=before.keys())
    assert kept == before  # as the file has it
    assert (config.coarse.prior.name, config.coarse.prior.vram) == ("sd15", "12")
    assert config.fine.prior.vram == "8"
    assert build_config("x", base={"fine": {"prior": "sdxl"}}).fine.prior.name == "sdxl"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("coarse.distillation=sdz", "'coarse.distillation.loss'"),
        ("coarse.distillation.clip=-1", "clip: expected positive"),
        (
            "coarse.distillation={loss: csd, progress: 2}",
            "progress: expected values between 0 and 1",
        ),
        ("coarse.prior.vram=13", "'coarse.prior.vram'"),
        ("coarse.prior.compile=[1]", "'coarse.prior.compile'"),
        ("coarse.steps=true", "coarse.*steps: expected a number"),
        ("coarse.text.prompts.bakc=x", "'front', 'side', 'back' or 'overhead'"),
        ("coarse.text.front_angle=150", "at most 180 degrees together, got 150.0 and 90.0"),
    ],
)
def test_bad_settings_are_named(setting: str, words: str) -> None:
    extra = ["coarse.text.back_angle=90"] if "front_angle" in setting else []
    with pytest.raises(UserError, match=words):
        build_config("x", None, [*extra, setting])


def test_a_stage_that_nobody_judges_is_refused() -> None:
    line = complaint("coarse.judges.prior=[[0, 0], [9, 0]]")
    assert "coarse.judges: all weights are 0" in line
    assert "coarse.judges.prior=1" in line


def test_perp_neg_needs_view_texts() -> None:
    settings = ["fine.text.perp_neg=true", "fine.text.view_dependent=false"]
    with pytest.raises(UserError, match="perp_neg"):
        build_config("x", None, settings)


def test_views_are_named_to_priors_that_are_not_told_them() -> None:
    assert PromptConfig().names_views(told=False)
    assert not PromptConfig().names_views(told=True)
    assert PromptConfig(view_dependent=True).names_views(told=True)
    assert not PromptConfig(view_dependent=False).names_views(told=False)
    some = PromptConfig(phrases={"back": "from behind"}, conflicting_words={"side": ("badge",)})
    assert [some.phrase(view) for view in ("front", "back")] == [PHRASES["front"], "from behind"]
    assert some.conflicts("side") == ("badge",)
    assert some.conflicts("back") == CONFLICTING_WORDS["back"]


def test_the_exact_prior_is_checked_before_any_work() -> None:
    check_prompts(build_config("a red chair", None, EXACT))
    assert "dragon" in complaint(*EXACT, prompt="a red dragon")
    assert "blurry" in complaint(*EXACT, "coarse.text.negative=blurry")
    assert "VSD" in complaint(*EXACT, "fine.distillation=vsd")
    assert "sees 64 px" in complaint(*EXACT, "coarse.resolution=32")
    assert "sees 512 px" in complaint(*EXACT, "fine.resolution=256")
    assert "must know the camera" in complaint(*EXACT, "coarse.prior.tell_camera=false")
    assert "no weights" in complaint(*EXACT, "coarse.prior.loras=[x]")


def test_models_are_checked_by_their_index_alone(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [f"coarse.prior={models['if']}", f"fine.prior={models['sd15']}"]
    monkeypatch.setattr(door, "load", lambda *_: pytest.fail("weights loaded"))
    monkeypatch.setattr(loading, "load_prior", lambda *_: pytest.fail("weights loaded"))
    check_prompts(build_config("any words at all", None, pair))
    latent_coarse = [f"coarse.prior={models['sd15']}", pair[1]]
    check_prompts(build_config("a chair", None, latent_coarse))
    assert "no model_index.json" in complaint(pair[0], f"fine.prior={tmp_path}")
    assert "no folder" in complaint("coarse.prior=./nowhere", pair[1])
    assert "sd15" in complaint("coarse.prior=sd-15", pair[1])
    assert "no file" in complaint(*pair, "fine.prior.loras=[./missing.safetensors]")
    assert "float16 is for GPUs" in complaint(*pair, "fine.prior.dtype=float16", "device=cpu")
    assert "works on pixels at 32 px" in complaint(pair[0], f"fine.prior={models['if']}")


def test_only_the_asked_stages_are_checked(models: dict[str, Path]) -> None:
    config = build_config("a dragon", None, [f"fine.prior={models['sd15']}"])
    check_prompts(config, [FINE])
    with pytest.raises(UserError, match="dragon"):
        check_prompts(config)


def test_vsd_without_peft_says_how_to_install_it(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: None)
    line = complaint(f"coarse.prior={models['if']}", "coarse.distillation=vsd")
    assert "pip install" in line
    assert "lora" in line


def test_one_door_for_all(models: dict[str, Path]) -> None:
    assert door.load(PriorConfig(name=str(models["sd15"]))).space == "latent"
    assert door.load(PriorConfig(name=str(models["if"]))).space == "pixel"
    assert door.load(PriorConfig(name="toybox-pixel")).wording is not None
    assert door.load(PriorConfig(name=str(models["if"]))).wording is None


def test_paths_of_a_run_are_absolute(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models["sd15"].parent)
    config = build_config("x", None, ["coarse.prior=if", "fine.prior=./sd15"])
    found = with_absolute_paths(config)
    assert found.coarse.prior.name == "if"  # a folder of that name is there, the alias wins
    assert found.fine.prior.name == str(models["sd15"].resolve())
    assert with_absolute_paths(found) == found
    lora = build_config("x", None, ["fine.prior.loras=[./sd15:0.25]"])
    assert with_absolute_paths(lora).fine.prior.loras == [f"{models['sd15'].resolve()}:0.25"]


@pytest.mark.parametrize("name", ["magic3d-if-sd", "magic3d-sd15", "sdxl", "sd3", "flux"])
def test_shipped_configurations_hold_only_what_differs(name: str) -> None:
    """And each names a model of the alias table for both stages, guided as its loss wants."""
    tree, defaults = read_config_file(name), RunConfig(prompt="x").model_dump(mode="json")
    leaves = list(flat(tree))
    assert leaves
    for path, value in leaves:
        default = defaults
        for key in path:
            default = default[key]
        assert value != default, path
    config = build_config("a corgi", name)
    for part in (config.coarse, config.fine):
        assert part.prior.name in ALIASES
        assert part.distillation.guidance_scale != 1.0
    assert config.fine.camera.fovy == (30.0, 45.0)


def flat(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, key))
        else:
            yield (*path, key), value


@pytest.mark.parametrize(
    ("prior", "config", "views"),
    [("sd15", None, 4), ("sdxl", None, 2), ("sdxl", "magic3d-sd15", 4), ("exact", None, 2)],
)
def test_an_alias_brings_its_configuration(
    prior: str, config: str | None, views: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is fetched.
    monkeypatch.setattr("maquette.common.begin.check_prompts", lambda *_: None)
    run = begin("a corgi", Choices(config, prior=prior, out=str(tmp_path / "run")))
    assert (run.config.fine.prior.name, run.config.fine.views) == (prior, views)


def test_every_alias_configuration_exists_and_names_a_prior_of_its_kind() -> None:
    for alias, name in SUITED.items():
        assert alias in ALIASES or alias in ("exact", "toybox", *EMBEDDED)
        chosen = build_config("x", name)
        assert SUITED[chosen.coarse.prior.name] == SUITED[chosen.fine.prior.name] == name

"""From the configuration to a prior: what is passed on, and what is refused before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from maquette.common.begin import SUITED, begin
from maquette.common.config.models import RunConfig
from maquette.common.config.priors import PriorConfig
from maquette.common.config.prompts import CONFLICTING_WORDS, PHRASES, PromptConfig
from maquette.common.config.reading import build_config, read_config_file
from maquette.common.errors import UserError
from maquette.common.guidance import choose
from maquette.common.guidance.choose import (
    check_prompts,
    load_options,
    parse_lora,
    view_config,
    with_absolute_paths,
)
from maquette.common.priors.loading import load_prior
from maquette.common.priors.location import ALIASES
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


def test_every_option_of_the_loader_can_be_configured() -> None:
    changed = PriorConfig(
        name="owner/name",
        revision="abc",
        variant="fp16",
        dtype="bfloat16",
        resolution=256,
        loras=["a.safetensors:0.5", "b"],
        textual_inversions=["c"],
        embedded_guidance=2.0,
        drop_t5=True,
        vram="12",
        offload="model",
        text_on_cpu=True,
        attention_slicing=True,
        vae_slicing=True,
        vae_tiling=True,
        checkpoint_vae=True,
        compile=True,
    )
    options = load_options(changed, "pixel", torch.device("cuda:1"))
    assert (options.source, options.device) == ("owner/name", "cuda:1")
    assert options.loras == (("a.safetensors", 0.5), ("b", 1.0))
    plain = PriorConfig(name="exact")
    for field in dataclasses.fields(PriorConfig):
        if field.name != "text":  # whether the text encoders are needed is the run's to know
            assert getattr(options, field.name) != getattr(plain, field.name), field.name
    assert load_options(PriorConfig(), "pixel", CPU) == plain


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
    rest = config.fine.distillation.model_dump(exclude={"loss"})  # stays as the file has it
    assert rest == build_config("x").fine.distillation.model_dump(exclude={"loss"})
    assert (config.coarse.prior.name, config.coarse.prior.vram) == ("sd15", "12")
    assert config.fine.prior.vram == "8"
    assert build_config("x", base={"fine": {"prior": "sdxl"}}).fine.prior.name == "sdxl"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("coarse.distillation=sdz", "'coarse.distillation.loss'"),
        ("coarse.distillation.clip=-1", "clip: expected positive"),
        ("coarse.distillation.csd_progress=2", "csd_progress: expected values between 0 and 1"),
        ("coarse.prior.vram=13", "'coarse.prior.vram'"),
        ("coarse.prior.compile=[1]", "'coarse.prior.compile'"),
        ("coarse.steps=true", "coarse.*steps: expected a number"),
        ("coarse.text.prompts.bakc=x", "'front', 'side', 'back' or 'overhead'"),
        ("coarse.text.front_angle=150", "together at most 180"),
    ],
)
def test_bad_settings_are_named(setting: str, words: str) -> None:
    extra = ["coarse.text.back_angle=90"] if "front_angle" in setting else []
    with pytest.raises(UserError, match=words):
        build_config("x", None, [*extra, setting])


def test_perp_neg_needs_view_texts() -> None:
    settings = ["fine.text.perp_neg=true", "fine.text.view_dependent=false"]
    with pytest.raises(UserError, match="perp_neg"):
        build_config("x", None, settings)


def test_views_are_named_to_priors_that_are_not_told_them() -> None:
    assert view_config(PromptConfig(), told=False) == PromptConfig()
    assert not view_config(PromptConfig(), told=True).view_dependent
    assert view_config(PromptConfig(view_dependent=True), told=True).view_dependent
    some = PromptConfig(phrases={"back": "from behind"}, conflicting_words={"side": ["badge"]})
    views = view_config(some, told=False)
    assert views.phrases == {**PHRASES, "back": "from behind"}
    assert views.conflicting_words == {**CONFLICTING_WORDS, "side": ("badge",)}


def test_the_exact_prior_is_checked_before_any_work() -> None:
    check_prompts(build_config("a red chair", None, EXACT))
    assert "dragon" in complaint(*EXACT, prompt="a red dragon")
    assert "blurry" in complaint(*EXACT, "coarse.text.negative=blurry")
    assert "VSD" in complaint(*EXACT, "fine.distillation=vsd")
    assert "sees 64 px" in complaint(*EXACT, "coarse.resolution=32")
    assert "sees 512 px" in complaint(*EXACT, "fine.resolution=256")
    assert "must know the camera" in complaint(*EXACT, "coarse.prior.camera=false")
    assert "no weights" in complaint(*EXACT, "coarse.prior.loras=[x]")


def test_models_are_checked_by_their_index_alone(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [f"coarse.prior={models['if']}", f"fine.prior={models['sd15']}"]
    monkeypatch.setattr(choose, "load_pretrained", lambda options: pytest.fail("weights loaded"))
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
    check_prompts(config, ["fine"])
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
    assert load_prior(PriorConfig(), "latent", CPU).resolution == 512
    assert load_prior(PriorConfig(), "pixel", CPU).resolution == 64
    assert load_prior(PriorConfig(name=str(models["sd15"])), "pixel", CPU).space == "latent"
    assert load_prior(PriorConfig(name=str(models["if"])), "pixel", CPU).space == "pixel"


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
    monkeypatch.setattr(
        "maquette.common.begin.check_prompts", lambda *_: None
    )  # nothing is fetched
    run = begin("a corgi", config, None, prior, out=str(tmp_path / "run"))
    assert (run.config.fine.prior.name, run.config.fine.views) == (prior, views)


def test_every_alias_configuration_exists_and_names_a_prior_of_its_kind() -> None:
    for alias, name in SUITED.items():
        assert alias in ALIASES or alias == "exact"
        chosen = build_config("x", name)
        assert SUITED[chosen.coarse.prior.name] == SUITED[chosen.fine.prior.name] == name

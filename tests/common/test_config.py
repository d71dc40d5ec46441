"""The configuration: what it takes, what it refuses and how it says so."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from maquette.common.config.models import CoarseConfig, PriorConfig, RunConfig
from maquette.common.config.reading import build_config, changed, shipped_configs, to_yaml, validate
from maquette.common.errors import UserError
from maquette.common.losses import ISM, SDI, SDS
from maquette.common.schedules import step_schedule

PROMPT = "a red mushroom"


def built(*pairs: str) -> RunConfig:
    return build_config(PROMPT, overrides=pairs)


def complaint(*pairs: str, prompt: str = PROMPT, file: str | None = None, **fixed: object) -> str:
    with pytest.raises(UserError) as caught:
        build_config(prompt, file, pairs, **fixed)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_is_valid_and_survives_yaml(name: str) -> None:
    config = build_config(PROMPT, name)
    assert validate(yaml.safe_load(to_yaml(config))) == config
    # Named with its ending it is the same one.
    assert build_config(PROMPT, f"{name}.yaml") == config


def test_the_default_file_is_the_toybox() -> None:
    assert build_config(PROMPT) == build_config(PROMPT, "toybox")
    assert build_config(PROMPT).coarse.steps != CoarseConfig().steps


def test_set_reaches_any_depth_and_keeps_the_rest() -> None:
    config = built("coarse.field.grid.levels=3", "coarse.steps=7", "fine.losses.laplacian=0.5")
    before = built()
    assert config.coarse.field.grid.levels == 3
    assert config.coarse.steps == 7
    assert config.fine.losses.laplacian == 0.5
    grid = {**before.coarse.field.grid.model_dump(), "levels": 3}
    assert config.coarse.field.grid.model_dump() == grid
    assert config.fine.losses.normal_consistency == before.fine.losses.normal_consistency


def test_set_reads_lists_null_text_and_numbers_as_yaml() -> None:
    config = built(
        "coarse.camera.fovy=[30, 50]",
        "coarse.losses.opacity=[[0, 1], [10, 2.5]]",
        "coarse.distillation.weight=null",
        "coarse.background.kind=random",
        "coarse.optimizer.learning_rate=1e-3",
        "fine.prompt=a blue mushroom",
        " coarse.views = 3",
    )
    assert config.coarse.camera.fovy == (30.0, 50.0)
    assert config.coarse.losses.opacity == [(0, 1.0), (10, 2.5)]
    assert config.coarse.distillation.weight == SDS().weight == "sigma2"
    assert config.coarse.background.kind == "random"
    assert config.coarse.optimizer.learning_rate == 1e-3
    assert config.fine_prompt == "a blue mushroom"
    assert config.coarse.views == 3


@pytest.mark.parametrize("text", ["yes", "1.0", "3", "a # b", "null a", "[a]", "on", "a: b"])
def test_a_setting_that_is_a_text_is_taken_as_it_is(text: str) -> None:
    assert built(f"fine.prompt={text}").fine.prompt == text
    assert built(f"coarse.text.negative={text}").coarse.text.negative == text
    assert built(f"coarse.prior.name={text}").coarse.prior.name == text


def test_what_says_nothing_means_nothing() -> None:
    assert built("fine.prompt=null").fine.prompt is None
    assert built("coarse.text.negative=").coarse.text.negative == ""
    assert built('fine.prompt="a red cat"').fine.prompt == "a red cat"
    assert built("coarse.prior=123").coarse.prior.name == "123"


def test_the_last_word_counts() -> None:
    assert built("coarse.steps=3", "coarse.steps=4").coarse.steps == 4
    assert build_config(PROMPT, None, ["seed=3"], seed=5).seed == 5
    assert build_config(PROMPT, None, ["seed=3"], seed=None).seed == 3


def test_a_file_of_the_user_differs_from_what_suits_the_prior(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("coarse: {steps: 12}\n")
    assert build_config(PROMPT, str(path)) == built("coarse.steps=12")
    sdxl = build_config(PROMPT, str(path), beneath="sdxl")
    assert sdxl == build_config(PROMPT, "sdxl", ["coarse.steps=12"])
    path.write_text("")
    assert build_config(PROMPT, str(path)) == built()


def test_a_file_that_builds_on_nothing_differs_from_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: null\ncoarse: {steps: 12}\n")
    config = build_config(PROMPT, str(path), ["coarse.views=2"])
    assert config == RunConfig.model_validate(
        {"prompt": PROMPT, "coarse": {"steps": 12, "views": 2}}
    )
    path.write_text("base: null\n")
    assert build_config(PROMPT, str(path)) == RunConfig(prompt=PROMPT)


def test_a_file_builds_on_another(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text("base: exact\ncoarse: {steps: 12, views: 5}\n")
    (tmp_path / "mine.yaml").write_text("base: below.yaml\nfine: {prior: {tell_camera: false}}\n")
    config = build_config(PROMPT, str(tmp_path / "mine.yaml"), ["coarse.views=7"])
    toybox = build_config(PROMPT)
    assert (config.coarse.steps, config.coarse.views) == (12, 7)
    assert config.coarse.field == toybox.coarse.field
    assert config.fine.prior == PriorConfig(name="exact", tell_camera=False)
    assert toybox.fine.prior.name == "toybox"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: mine.yaml", "mine.yaml builds on itself"),
        ("base: other.yaml", "builds on itself"),
        ("base: nowhere", "no configuration file 'nowhere'"),
        ("base: [toybox]", "expected the name of a file"),
    ],
)
def test_a_base_that_cannot_be_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "other.yaml").write_text("base: mine.yaml\n")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        build_config(PROMPT, str(tmp_path / "mine.yaml"))


def test_nothing_is_written_to_the_base() -> None:
    base = built().model_dump(mode="json")
    kept = copy.deepcopy(base)
    build_config(PROMPT, None, ["coarse.field.grid.levels=3", "seed=9"], base=base)
    assert base == kept


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("coarse.stesp=3", ["unknown setting 'coarse.stesp'", "did you mean steps", "samples"]),
        ("caorse.steps=3", ["unknown setting 'caorse'", "did you mean coarse", "top level has"]),
        (
            "coarse.learning_rat=3",
            ["unknown setting 'coarse.learning_rat'", "coarse.optimizer.learning_rate"],
        ),
        ("coarse.field.grid.level=3", ["'coarse.field.grid.level'", "levels"]),
        ("coarse.steps.x=3", ["'coarse.steps'", "integer"]),
        ("coarse.xqzj=3", ["unknown setting 'coarse.xqzj'", "coarse has: background"]),
        ("coarse.distillation.stride=0.1", ["'coarse.distillation.stride'", "of ism alone"]),
        ("coarse.distillation.gap=0.1", ["'coarse.distillation.gap'", "of ism, sdi alone"]),
        ("coarse.distillation.clp=1", ["'coarse.distillation.clp'", "did you mean clip", "t_max"]),
    ],
)
def test_an_unknown_key_is_named_with_a_hint(pair: str, words: list[str]) -> None:
    text = complaint(pair)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("coarse.steps=soon", ["'coarse.steps'", "integer", "'soon'"]),
        ("coarse.steps=80.5", ["'coarse.steps'", "integer", "80.5"]),
        ("coarse.steps=0", ["'coarse.steps'", "greater than or equal to 1"]),
        ("coarse.steps=", ["coarse.steps", "no value"]),
        ("coarse.steps=true", ["'coarse'", "steps", "number", "True"]),
        ("coarse.steps=[1, 2]", ["'coarse.steps'", "[1, 2]"]),
        ("coarse=5", ["'coarse'", "5"]),
        ("coarse.field=null", ["'coarse.field'", "None"]),
        ("coarse.field.normals=flat", ["'coarse.field.normals'", "finite_difference", "'flat'"]),
        ("coarse.background.color=[2, 0, 0]", ["'coarse.background.color.0'", "1"]),
        ("coarse.background.color=[0, 0]", ["'coarse.background.color"]),
        ("coarse.camera.distance=[2, 1]", ["'coarse.camera'", "distance"]),
        ("coarse.camera.elevation=[-100, 0]", ["'coarse.camera'", "elevation"]),
        ("coarse.camera.fovy=[40, 180]", ["'coarse.camera'", "fovy"]),
        ("coarse.light.shares=[1, 1, 1]", ["'coarse.light'", "sum to 1"]),
        ("coarse.light.ambient=[0.5, 0.2]", ["'coarse.light'", "ambient"]),
        ("coarse.light.ambient=[0, 2]", ["'coarse.light.ambient.1'"]),
        ("coarse.losses.opacity=much", ["'coarse.losses.opacity'", "number", "'much'"]),
        ("coarse.losses.opacity=[]", ["'coarse.losses.opacity'", "at least one"]),
        ("coarse.losses.opacity=[[9, 1], [3, 2]]", ["'coarse.losses.opacity'", "growing"]),
        ("coarse.distillation=sdd", ["'coarse.distillation.loss'", "one of sds, sjc", "'sdd'"]),
        ("coarse.distillation.clip=-1", ["'coarse.distillation'", "clip", "positive"]),
        ("coarse.judges.clip=much", ["'coarse.judges.clip'", "number"]),
        ("coarse.distillation.t_min=0.99", ["'coarse.distillation'", "t_min <= t_max"]),
        ("fine.distillation.t_max=[[0, 0.5], [9, 1.5]]", ["'fine.distillation'", "1.5"]),
        ("coarse.field.grid.finest_resolution=4", ["'coarse.field.grid'", "base_resolution"]),
        ("coarse.optimizer.betas=[0.9, 1.0]", ["'coarse.optimizer.betas.1'", "less than 1"]),
        ("coarse.optimizer.learning_rate=.inf", ["'coarse.optimizer.learning_rate'", "finite"]),
        ("coarse.distillation.t_min=.nan", ["'coarse.distillation.t_min'", "finite"]),
        ("fine.prompt=", ["'fine.prompt'", "empty"]),
        ("seed=-1", ["'seed'", "-1"]),
        ("seed=9223372036854775808", ["'seed'"]),
        ("seed.x=1", ["'seed'"]),
        ("coarse.steps", ["key=value", "'coarse.steps'"]),
        ("=3", ["key=value"]),
        ("1=2", ["unknown setting '1'"]),
    ],
)
def test_a_bad_value_is_named_in_one_line(pair: str, words: list[str]) -> None:
    text = complaint(pair)
    assert all(word in text for word in words), text


def test_a_texture_finer_than_positions_is_refused() -> None:
    text = complaint(
        "coarse.field.grid.levels=4",
        "coarse.field.grid.finest_resolution=4096",
        "fine.texture.extra_levels=8",
    )
    assert "fine.texture.extra_levels" in text


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    assert "the prompt is empty" in complaint(prompt=prompt)


def test_bytes_that_are_no_text_are_refused() -> None:
    assert "UTF-8" in complaint(prompt="a red \udcff mushroom")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"coarse: [1\n", ["not valid YAML", "line 2"]),
        (b"- 1\n- 2\n", ["mapping"]),
        (b"coarse: {stesp: 2}\n", ["'coarse.stesp'", "steps"]),
        (b"coarse:\n", ["'coarse'"]),
        (b"1: 2\n", ["'1'"]),
        (b"\xff\xfe\x00\x01", ["text"]),
        (b"prompt: \x07\n", ["not valid YAML"]),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    text = complaint(file=str(path))
    assert all(word in text for word in words), text


@pytest.mark.parametrize("name", ["nowhere", "x" * 5000, "."])
def test_a_missing_file_is_named(name: str) -> None:
    text = complaint(file=name)
    assert "configuration" in text
    assert name[:50] in text


def test_a_loss_brings_its_published_options_along() -> None:
    """With a file that chooses none, whatever the stage's own defaults are."""
    config = build_config(
        PROMPT, "magic3d-sd15", ["coarse.distillation=ism", "fine.distillation=sdi"]
    )
    assert config.coarse.distillation == ISM()
    assert config.fine.distillation == SDI(t_max=0.5)
    assert (ISM().guidance_scale, ISM().weight) == (7.5, "signal")
    assert build_config(PROMPT, "magic3d-sd15").fine.distillation == SDS(t_max=0.5)
    # DreamFusion's omega = 100 stands in (1 + omega) e_y - omega e_0.
    assert SDS().guidance_scale == 101.0
    again = validate(yaml.safe_load(to_yaml(config)))
    assert again.coarse.distillation == ISM()


def test_reading_a_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys; from maquette.common.config.reading import build_config;"
        "build_config('a corgi', 'sdxl', ['coarse.distillation=ism']);"
        "print([m for m in ('torch', 'numpy', 'numba', 'scipy') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_configuration_cannot_be_written_to() -> None:
    config = built()
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.coarse.steps = 3  # type: ignore[misc]


def test_changed_replaces_what_is_given_and_checks_it() -> None:
    config = built()
    other = changed(config, "export", {"faces": 100, "texture_size": None})
    assert other.export.faces == 100
    assert other.export.texture_size == config.export.texture_size
    assert other.coarse == config.coarse
    with pytest.raises(UserError, match=r"export\.faces"):
        changed(config, "export", {"faces": 1})


def test_schedules_of_a_configuration_are_joined_by_straight_lines() -> None:
    losses = built("coarse.losses.orientation=[[0, 10], [5000, 1000]]").coarse.losses
    assert [step_schedule(losses.orientation, s) for s in (0, 2500, 5000, 9999)] == [
        10.0,
        505.0,
        1000.0,
        1000.0,
    ]


def test_the_fine_stage_follows_its_own_prompt_if_it_has_one() -> None:
    assert built().fine_prompt == PROMPT
    assert built("fine.prompt=null").fine_prompt == PROMPT
    assert built("fine.prompt=a blue car").fine_prompt == "a blue car"


@settings(max_examples=100, deadline=None)
@example("0\x850")
@example("a\u2028b\x00 \ufeff\r\n - : # {")
@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_any_prompt_survives_yaml(prompt: str) -> None:
    if any("\ud800" <= sign <= "\udfff" for sign in prompt):
        with pytest.raises(ValidationError, match="UTF-8"):
            RunConfig(prompt=prompt)
        return
    config = RunConfig(prompt=prompt)
    assert RunConfig.model_validate(yaml.safe_load(to_yaml(config))) == config


def test_a_mesh_s_paint_is_decided_at_high_noise() -> None:
    from maquette.common.begin import Choices, mesh_words, with_mesh

    def fine(keep: bool, **choices: Any) -> Any:
        words = mesh_words("toy.obj", keep, "y", None)
        return with_mesh("a red mug", words, Choices(**choices)).fine

    painted = fine(keep=True)
    assert painted.paint_from == 0
    assert painted.distillation.guidance_scale == 1.0
    assert painted.distillation.t_min == [(0, 0.95), (100, 0.95), (130, 0.02)]
    assert painted.distillation.t_max == [(0, 0.99), (110, 0.98), (150, 0.5)]
    half = fine(keep=True, preset="fast")
    assert half.distillation.t_max == [(0, 0.99), (55, 0.98), (75, 0.5)]
    refined, exact = fine(keep=False), fine(keep=True, prior="exact")
    assert refined.paint_from == 40
    assert refined.distillation.t_min[2] == (40, 0.95)
    assert (exact.paint_from, exact.distillation.t_min) == (0, 0.02)

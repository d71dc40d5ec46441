"""Settings, captions, files and damaged runs of any kind end in an answer or in one line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import Found, one_try, small_run
from maquette.common.config.models import RunConfig
from maquette.common.config.reading import build_config, read_config_file, set_value, validate
from maquette.common.errors import LONGEST, UserError, one_line, shown
from maquette.common.runs.folder import slug
from maquette.common.toybox.grammar import CATEGORIES, COLORS, PATTERNS, parse

KEYS = ("coarse", "fine", "steps", "prior", "name", "camera", "fovy", "losses", "opacity", "prompt")
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
WORDS = st.sampled_from([*CATEGORIES, *COLORS, *PATTERNS, "a", "and", "an", "view", "front", ","])


def answered(call: Any, *arguments: Any) -> Any:
    """What a function returns, or the line it refuses with."""
    try:
        return call(*arguments)
    except UserError as error:
        line = one_line(str(error))
        assert len(line) <= LONGEST
        assert line.isprintable()
        return line


@given(tree=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), ANY, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_configuration_is_taken_or_told(tree: dict[str, Any]) -> None:
    found = answered(validate, {**tree, "prompt": "a red cat"})
    assert isinstance(found, RunConfig | str)


@given(
    key=st.sampled_from(
        ["coarse.steps", "fine.prompt", "coarse.losses.opacity", "coarse.prior", "seed", "coarse"]
    )
    | st.text(max_size=30),
    value=st.text(max_size=60),
)
@settings(max_examples=300, deadline=None)
def test_any_pair_is_taken_or_told(key: str, value: str) -> None:
    found = answered(build_config, "a red cat", None, [f"{key}={value}"])
    assert isinstance(found, RunConfig | str)


@given(value=st.text(min_size=1, max_size=60).filter(lambda t: t.strip()))
@settings(max_examples=200, deadline=None)
def test_a_text_setting_is_what_was_typed(value: str) -> None:
    plain = value.strip()
    if plain in ("null", "~") or (plain[0] == plain[-1] and plain[0] in "\"'" and len(plain) > 1):
        return
    tree: dict[str, Any] = {}
    set_value(tree, f"fine.prompt={value}")
    assert tree["fine"]["prompt"] == plain


@given(words=st.lists(WORDS | st.text(max_size=8), max_size=8))
@settings(max_examples=300, deadline=None)
def test_any_caption_is_read_or_told(words: list[str]) -> None:
    answered(parse, " ".join(words))


@given(content=st.binary(max_size=200) | ANY.map(lambda t: yaml.safe_dump(t).encode()))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_file_is_read_or_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    found = answered(read_config_file, str(path))
    assert isinstance(found, dict | str)


@given(st.text(max_size=5000))
@settings(max_examples=200, deadline=None)
def test_a_line_is_a_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= LONGEST
    assert line.isprintable()
    assert len(shown(text)) < 800


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_prompt_leaves_its_folder(text: str) -> None:
    """`../`, absolute paths and drive letters are no part of a name."""
    name = slug(text)
    assert name
    assert Path(name).name == name
    assert name not in (".", "..")


@pytest.mark.slow
def test_damaged_runs_are_mended_or_told(tmp_path: Path) -> None:
    """Some tries of `benchmarks/fuzz.py`."""
    draw, found = random.Random(1), Found()
    reference = small_run(tmp_path / "reference")
    (tmp_path / "place").mkdir()
    for _ in range(25):
        one_try(reference, tmp_path / "place", draw, found)
    assert found.wrong == []

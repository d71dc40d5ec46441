"""Run folders: safe names, the same run for the same settings, and clear words for bad folders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.common.config.models import RunConfig
from maquette.common.config.reading import build_config
from maquette.common.errors import UserError
from maquette.common.runs.folder import FORMAT, _digest, open_or_create, open_run, slug

SAFE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
RESERVED = {"con", "prn", "aux", "nul", "com1", "lpt9"}


def config(prompt: str = "a red mushroom", **fixed: object) -> RunConfig:
    return build_config(prompt, **fixed)


def refusal(folder: Path | str, out: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        open_or_create(config(), str(folder)) if out else open_run(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red mushroom", "a-red-mushroom"),
        ("A red  mushroom!", "a-red-mushroom"),
        ("  a red, red rose. ", "a-red-red-rose"),
    ],
)
def test_a_plain_prompt_names_its_folder(prompt: str, name: str) -> None:
    assert slug(prompt) == name


STRANGE = [
    "x" * 1000,
    "x" * 1001,
    "a red mushroom " * 70,
    "a/b",
    "a\\b",
    "a b/../../../etc/passwd",
    "..",
    ".",
    "/",
    "~",
    "-",
    "--help",
    "con",
    "CON",
    "nul",
    "lpt1",
    "com9",
    "prn",
    "ein großer Pilz",
    "ein grosser Pilz",
    "un champignon rouge très élégant",
    "красный гриб",
    "синий гриб",
    "紅いキノコ",
    "🍄",
    "🍄🍄",
    "a 🍄",
    "a\nb\tc",
    "a\x00b",
    "   ",
    "\u202e reversed",
    "\udcff",
    "a red mushroom\u0301",
    "$(rm -rf x); `ls` | > &",
    "quotes \" and ' and <angles>",
    "percent %s {0} *?:",
]


@pytest.mark.parametrize("prompt", STRANGE)
def test_a_strange_prompt_makes_a_safe_name(prompt: str) -> None:
    name = slug(prompt)
    assert SAFE.fullmatch(name), name
    assert len(name) <= 57
    assert name not in RESERVED
    assert slug(prompt) == name


def test_strange_prompts_don_t_share_names() -> None:
    names = {prompt: slug(prompt) for prompt in STRANGE}
    assert len(set(names.values())) == len(names)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text_makes_a_safe_name(prompt: str) -> None:
    name = slug(prompt)
    assert SAFE.fullmatch(name)
    assert len(name) <= 57
    assert name not in RESERVED


def test_a_new_run_holds_its_whole_configuration_and_versions(tmp_path: Path) -> None:
    run = open_or_create(config(seed=5), None, root=tmp_path)
    assert run.folder == tmp_path / "a-red-mushroom"
    tree = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert tree["format"] == FORMAT
    assert {"python", "torch", "numpy"} <= tree["versions"].keys()
    assert tree["seed"] == 5
    assert open_run(str(run.folder)).config == run.config
    assert run.coarse == run.folder / "coarse"
    assert run.fine == run.folder / "fine"
    assert run.export == run.folder / "export"


@pytest.mark.parametrize("prompt", [p for p in STRANGE if p.strip() and "\udcff" not in p])
def test_a_run_of_any_prompt_can_be_opened_again(tmp_path: Path, prompt: str) -> None:
    run = open_or_create(config(prompt), None, root=tmp_path)
    assert run.folder.parent == tmp_path
    assert open_run(str(run.folder)).config.prompt == prompt.strip()


def test_the_same_settings_open_the_same_run_and_others_the_next_name(tmp_path: Path) -> None:
    first = open_or_create(config(), None, root=tmp_path)
    assert open_or_create(config(), None, root=tmp_path) == first
    second = open_or_create(config(seed=1), None, root=tmp_path)
    assert second.folder == tmp_path / "a-red-mushroom-2"
    assert open_or_create(config(seed=1), None, root=tmp_path) == second
    assert open_or_create(config(seed=2), None, root=tmp_path).folder.name == "a-red-mushroom-3"
    assert open_run(str(first.folder)).config == config()


def test_a_damaged_run_keeps_its_name(tmp_path: Path) -> None:
    first = open_or_create(config(), None, root=tmp_path)
    (first.folder / "config.yaml").write_text("format: 2\nprompt: [")
    before = (first.folder / "config.yaml").read_bytes()
    assert open_or_create(config(), None, root=tmp_path).folder.name == "a-red-mushroom-2"
    assert (first.folder / "config.yaml").read_bytes() == before


def test_out_is_the_run_s_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "mine"
    run = open_or_create(config(), str(folder))
    assert run.folder == folder
    assert open_or_create(config(), str(folder)).folder == folder
    with pytest.raises(UserError, match="other settings"):
        open_or_create(config(seed=1), str(folder))
    (tmp_path / "empty").mkdir()
    assert open_or_create(config(), str(tmp_path / "empty")).folder == tmp_path / "empty"


def test_out_never_mixes_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    assert "not empty" in refusal(tmp_path, out=True)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("a regular file")
    text = refusal(tmp_path / "file" / below, out=True)
    assert "cannot write" in text
    assert "--out" in text
    assert (tmp_path / "file").read_text() == "a regular file"


def test_a_name_too_long_is_told(tmp_path: Path) -> None:
    assert "cannot write" in refusal(tmp_path / ("x" * 5000), out=True)
    assert "cannot open" in refusal(tmp_path / ("x" * 5000))


def test_a_root_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        open_or_create(config(), None, root=tmp_path / "runs")


def test_a_missing_run_is_told(tmp_path: Path) -> None:
    assert "no run folder" in refusal(tmp_path / "nowhere")
    assert "no config.yaml" in refusal(tmp_path)
    (tmp_path / "file").touch()
    assert "no run folder" in refusal(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"format: [1", "damaged"),
        (b"just text", "damaged"),
        (b"- a list", "damaged"),
        (b"prompt: a red mushroom\n", "damaged"),
        (b"format: 2\n", "prompt"),
        (b"format: 2\nprompt: a red mushroom\nnew_setting: 3\n", "new_setting"),
        (b"format: 2\nprompt: a red mushroom\nseed: many\n", "seed"),
        (b"format: 1\nprompt: a red mushroom\n", "format 1, this version reads format 2"),
    ],
)
def test_a_damaged_or_foreign_configuration_is_told(tmp_path: Path, content, words) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    assert words in refusal(tmp_path)
    assert (tmp_path / "config.yaml").read_bytes() == content


def without_a_setting(file: Path, digest: bool) -> None:
    """Make a configuration one of a version that had no `coarse.prior.joint_views` yet."""
    tree = yaml.safe_load(file.read_text("utf-8"))
    del tree["coarse"]["prior"]["joint_views"]
    if digest:
        head = ("format", "versions", "digest", "threads")
        tree["digest"] = _digest({k: v for k, v in tree.items() if k not in head})
    file.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")


def test_a_run_of_a_version_with_fewer_settings_has_the_defaults(tmp_path: Path) -> None:
    run = open_or_create(config(seed=3), str(tmp_path / "run"))
    without_a_setting(run.folder / "config.yaml", digest=True)
    again = open_run(str(run.folder))
    assert again.config == run.config
    assert again.config.coarse.prior.joint_views == 1
    assert open_or_create(config(seed=3), str(tmp_path / "run")).config == run.config


def test_a_configuration_that_lost_a_line_is_told(tmp_path: Path) -> None:
    run = open_or_create(config(), str(tmp_path / "run"))
    without_a_setting(run.folder / "config.yaml", digest=False)
    assert "isn't the complete configuration" in refusal(run.folder)


def test_events_are_one_object_a_line(tmp_path: Path, capsys) -> None:
    run = open_or_create(config(), str(tmp_path / "run"))
    run.event("stage started", stage="coarse", step=3)
    run.warn("a line\nwith [brackets] and ümläuts")
    lines = (run.folder / "events.jsonl").read_text("utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["created", "stage started", "warning"]
    assert events[1]["step"] == 3
    assert events[2]["message"] == "a line\nwith [brackets] and ümläuts"
    assert all(event["time"] > 1e9 for event in events)
    assert "warning: a line" in capsys.readouterr().err

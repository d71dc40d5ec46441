"""Finding, comparing and keeping runs; settings, configurations and presets as tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from maquette import pipeline
from maquette.common.begin import Choices, begin
from maquette.common.config.differences import clash, differing, flat, from_default, told_value
from maquette.common.config.models import RunConfig
from maquette.common.config.presets import PRESETS, preset_settings, scaled
from maquette.common.config.reading import build_config, shipped_configs
from maquette.common.errors import UserError
from maquette.common.files import sole_writer
from maquette.common.losses import LOSSES
from maquette.common.runs.coarse_result import handed_off, read_result
from maquette.common.runs.folder import CLEANED, Run, open_or_create, open_run
from maquette.common.shelf import tables
from maquette.common.shelf.cleaning import clean_run, delete_run, droppable
from maquette.common.shelf.settings import all_settings, markdown
from maquette.common.shelf.summary import (
    poster_of,
    stage_told,
    summarize,
    told_age,
    told_size,
)
from maquette.common.shelf.tables import (
    columns,
    compare_data,
    compare_lines,
    configs_lines,
    list_json,
    list_lines,
    settings_lines,
    show_data,
    show_lines,
)

ROOT = Path(pipeline.__file__).parent


def made(place: Path, name: str, prompt: str = "a red mushroom", *overrides: str) -> Run:
    return open_or_create(build_config(prompt, overrides=overrides), str(place / name))


def finished(run: Run) -> Run:
    """What a finished run's folder holds, but for what is in the files."""
    for stage in ("coarse", "fine"):
        (run.folder / stage / "growth").mkdir(parents=True)
        (run.folder / stage / "growth" / "000001.png").write_bytes(b"1" * 100)
        run.event("stage started", stage=stage, step=0, total=500)
        run.event("stage finished", stage=stage, seconds=40.0, steps=500)
    run.event("hand-off", seconds=2.0)
    steps = run.config.fine.steps
    for name in ("coarse/step-000450", "coarse/step-000500", "coarse/result", "fine/first"):
        (run.folder / f"{name}.safetensors").write_bytes(b"0" * 1000)
    for step in (steps - 50, steps):
        (run.fine / f"step-{step:06d}.safetensors").write_bytes(b"0" * 1000)
    (run.fine / "poster.png").write_bytes(b"2")
    run.export.mkdir()
    (run.export / "report.json").write_text('{"obj": "a.obj", "psnr": [40.0], "faces_out": 99}')
    run.event("exported", faces=99, psnr=41.25, seconds={"clean": 1.0, "bake": 2.5})
    return run


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs a command; its exit code, what it printed, what it said."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["maquette", *arguments])
        with pytest.raises(SystemExit) as ended:
            pipeline.main()
        told = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, told.out, told.err

    return call


# Lists


def test_a_summary_tells_what_the_folder_holds(tmp_path: Path) -> None:
    run = finished(made(tmp_path, "one"))
    (run.folder / "scores.json").write_text('{"f_score": 0.9, "prompt": "x", "psnr": 20.0}')
    found = summarize(run.folder)
    assert (found.prompt, found.seed, found.stage) == ("a red mushroom", 0, "exported")
    assert found.finished
    assert found.scores == {"psnr": 41.25, "f_score": 0.9}  # of the files, and of the truth
    assert found.seconds == {"coarse": 40.0, "fine": 40.0, "hand-off": 2.0, "export": 3.5}
    assert found.poster == run.fine / "poster.png"
    assert found.size == sum(p.stat().st_size for p in run.folder.rglob("*") if p.is_file())
    assert json.loads(json.dumps(found.as_json()))["run"] == str(run.folder)


def test_how_far_a_run_is(tmp_path: Path) -> None:
    events: list[dict] = []
    told = [stage_told(tmp_path, events)]
    for event in (
        {"event": "stage started", "stage": "coarse", "step": 0, "total": 500},
        {"event": "checkpoint", "stage": "coarse", "step": 50},
        {"event": "stage finished", "stage": "coarse"},
        {"event": "hand-off"},
        {"event": "stage started", "stage": "fine", "step": 0, "total": 150},
    ):
        events.append(event)
        told.append(stage_told(tmp_path, events))
    assert told == [
        "new",
        "coarse 0/500",
        "coarse 50/500",
        "coarse done",
        "handed off",
        "fine 0/150",
    ]


def test_the_poster_is_the_best_picture_so_far(tmp_path: Path) -> None:
    assert poster_of(tmp_path) is None
    names = ["coarse/growth/000001.png", "coarse/growth/000009.png", "coarse/preview.png"]
    for name in [*names, "coarse/poster.png", "fine/poster.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        assert poster_of(tmp_path) == tmp_path / name


def test_words_for_sizes_and_ages() -> None:
    assert [told_size(n) for n in (5, 2048, 3 << 20, 5 << 30)] == [
        *("5 B", "2 KiB", "3 MiB", "5.0 GiB")
    ]
    ages = [told_age(1000.0, 1000.0 + s) for s in (90, 2 * 3600, 72 * 3600)]
    assert ages == ["2 min", "2 h", "3 d"]
    assert told_age(0.0) == ""
    assert columns([["a", "b"], ["long", "c"]]) == ["a     b", "long  c"]


def test_list_is_newest_first_and_skips_what_is_no_run(tmp_path: Path) -> None:
    first = finished(made(tmp_path, "first"))
    (tmp_path / "notes").mkdir()
    second = made(tmp_path, "second", "a blue cat")
    lines = list_lines(str(tmp_path))
    assert len(lines) == 3
    assert lines[1].split()[0] == str(second.folder)
    assert "exported" in lines[2]
    assert "psnr 41.2" in lines[2]
    rows = json.loads(list_json(str(tmp_path)))
    assert [row["run"] for row in rows] == [str(second.folder), str(first.folder)]
    with pytest.raises(UserError, match="no folder"):
        list_lines(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "no runs in" in list_lines(str(tmp_path / "empty"))[0]


# Differences


def test_show_tells_what_differs_from_the_default(tmp_path: Path) -> None:
    run = finished(made(tmp_path, "one", "a red mushroom", "coarse.steps=80", "seed=3"))
    data = show_data(str(run.folder))
    assert data["settings"] == {"seed": 3, "coarse.steps": 80}
    assert data["report"]["faces_out"] == 99
    lines = show_lines(str(run.folder))
    assert "  coarse.steps=80" in lines
    assert "times: coarse 0:40, fine 0:40, hand-off 0:02, export 0:04" in lines


def test_compare_shows_only_what_differs(tmp_path: Path) -> None:
    one = made(tmp_path, "one", "a red mushroom", "fine.distillation.loss=sds")
    two = made(tmp_path, "two", "a red mushroom", "fine.distillation.loss=ism", "seed=1")
    data = compare_data([str(one.folder), str(two.folder)])
    assert data["settings"]["seed"] == [0, 1]
    assert data["settings"]["fine.distillation.loss"] == ["sds", "ism"]
    assert "coarse.steps" not in data["settings"]
    lines = compare_lines([str(one.folder), str(two.folder)])
    assert any(line.split() == ["seed", "0", "1"] for line in lines)
    same = compare_lines([str(one.folder), str(one.folder)])
    assert same[-1].split() == ["settings", "the", "same", "the", "same"]
    with pytest.raises(UserError, match="two runs or more"):
        compare_data([str(one.folder)])


def test_differences_are_dotted_keys() -> None:
    one = build_config("a red mushroom")
    two = build_config("a red mushroom", overrides=["coarse.camera.distance=[2, 3]"])
    assert differing([one, one]) == {}
    assert differing([one, two]) == {"coarse.camera.distance": [[3.0, 3.0], [2.0, 3.0]]}
    assert clash(one, two) == "coarse.camera.distance [3, 3] -> [2, 3]"
    assert from_default(one) == {}
    tree = {"a": {"b": 1, "c": {}}, "d": [1]}
    assert flat(tree) == {"a.b": 1, "a.c": {}, "d": [1]}
    assert [told_value(v) for v in (True, 0.5, None, [1, 2.0], "x")] == [
        *("true", "0.5", "null", "[1, 2]", "x")
    ]
    many = build_config("a cat", overrides=[f"coarse.{k}=9" for k in ("steps", "views", "samples")])
    assert clash(one, many, most=2).endswith(" and 2 more")


def test_a_clash_of_out_names_the_settings(tmp_path: Path) -> None:
    made(tmp_path, "one")
    with pytest.raises(UserError, match=r"other settings \(seed 0 -> 7\)"):
        made(tmp_path, "one", "a red mushroom", "seed=7")


# Removing


def test_delete_asks_and_takes_runs_alone(tmp_path: Path, command, monkeypatch) -> None:
    run, other = made(tmp_path, "one"), tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    code, _, told = command("delete", str(run.folder), str(other), "--yes")
    assert code == 2
    assert "is no run folder; nothing was removed" in told
    assert run.folder.is_dir()
    code, _, told = command("delete", str(run.folder))
    assert code == 2
    assert "give --yes" in told
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question: False)
    code, out, _ = command("delete", str(run.folder))
    assert (code, out) == (0, "nothing was removed\n")
    code, out, _ = command("delete", str(run.folder), "--yes")
    assert code == 0
    assert out.startswith(f"removed {run.folder}, ")
    assert not run.folder.exists()
    assert (other / "thesis.txt").is_file()


def test_a_run_that_works_is_not_deleted(tmp_path: Path) -> None:
    run = made(tmp_path, "one")
    (tmp_path / "link").symlink_to(run.folder)
    with pytest.raises(UserError, match="is a link"):
        delete_run(tmp_path / "link")
    with sole_writer(run.folder), pytest.raises(UserError, match="another process"):
        delete_run(run.folder)
    assert (run.folder / "config.yaml").is_file()


def test_clean_keeps_what_an_export_needs(tmp_path: Path) -> None:
    run = finished(made(tmp_path, "one"))
    steps = run.config.fine.steps
    before = summarize(run.folder).size
    freed = clean_run(str(run.folder))
    assert before - summarize(run.folder).size == freed - (run.folder / CLEANED).stat().st_size
    kept = {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*.safetensors")}
    assert kept == {"fine/first.safetensors", f"fine/step-{steps:06d}.safetensors"}
    assert (run.fine / "poster.png").is_file()
    assert not (run.coarse / "growth").exists()
    assert droppable(run) == []
    assert clean_run(str(run.folder)) == 0
    # It isn't taken for one that was cut off: nothing is trained anew.
    assert handed_off(run)
    with pytest.raises(UserError, match="was cleaned"):
        read_result(run)


def test_clean_leaves_an_unfinished_run_alone(tmp_path: Path) -> None:
    run = made(tmp_path, "one")
    with pytest.raises(UserError, match="isn't exported yet"):
        clean_run(str(run.folder))


@pytest.mark.slow
def test_a_cleaned_run_is_exported_again(tmp_path: Path, small_run: Path, command) -> None:
    import shutil

    folder = Path(shutil.copytree(small_run, tmp_path / "run"))
    mesh = (folder / "export" / "a-red-mushroom.obj").read_bytes()
    assert command("clean", str(folder))[0] == 0
    (folder / "export" / "a-red-mushroom.obj").unlink()
    code, _, told = command("export", str(folder))
    assert code == 0, told
    assert (folder / "export" / "a-red-mushroom.obj").read_bytes() == mesh
    assert command("resume", str(folder))[0] == 0
    assert not (folder / "coarse" / "result.safetensors").exists()


# Settings


def test_every_setting_of_a_run_is_in_the_table() -> None:
    rows = {row.key: row for row in all_settings()}
    own = flat(build_config("x").model_dump(mode="json"))
    for key in own:
        above = any(key.startswith(f"{k}.") for k in rows)  # a mapping's own keys
        below = any(k.startswith(f"{key}.") for k in rows)  # a part that isn't there by default
        assert key in rows or "distillation" in key or above or below, key
    for name in LOSSES:
        assert f"coarse.distillation({name}).t_min" in rows
    assert all(row.line and row.type and row.source for row in rows.values())


@pytest.mark.parametrize(
    ("key", "type_", "default", "own", "bounds"),
    [
        ("prompt", "text", "required", "", ""),
        ("seed", "whole number", "0", "", ">= 0, < 2^63"),
        ("coarse.steps", "whole number", "5000", "500", "1 to 100000000"),
        ("coarse.camera.fovy", "2 of number", "[40, 70]", "[40, 40]", ""),
        ("fine.camera.fovy", "2 of number", "[30, 45]", "[40, 40]", ""),
        ("coarse.occupancy.resolution", "whole number", "256", "32", "8 to 512"),
        ("export.speck_share", "number", "0.01", "", "0 to 1"),
        ("fine.geometry.isosurface", "one of own, kaolin", "own", "", ""),
    ],
)
def test_a_row_of_the_table(key, type_, default, own, bounds) -> None:
    row = next(row for row in all_settings() if row.key == key)
    assert (row.type, row.default, row.range) == (type_, default, bounds)
    if not key.startswith("fine.camera"):
        assert row.own == own
    assert RunConfig.__name__  # the rows are the models' own


def test_settings_are_searched_by_words() -> None:
    lines = settings_lines("occupancy threshold")
    assert lines[0].startswith("coarse.occupancy.threshold  (number, > 0; 0.01")
    with pytest.raises(UserError, match="did you mean threshold"):
        settings_lines("treshold")


def test_the_page_of_the_docs_is_made_from_the_table() -> None:
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == markdown()


def test_configs_have_a_line_each() -> None:
    lines = configs_lines()
    for name in shipped_configs():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert len(line.split()) > 3, line
    assert any(line.startswith("fast ") for line in lines)


def test_configs_tell_what_was_measured(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "MEASURED", tmp_path / "presets.json")
    assert tables.measured_lines() == []
    figures = {"cpu": 61.0, "f_score": 0.91, "iou": 0.99, "psnr": 26.5}
    (tmp_path / "presets.json").write_text(json.dumps({"exact": {"fast": figures}}))
    assert configs_lines()[-1].split() == ["fast", "exact", "61", "0.91", "0.99", "26.5"]


# Presets


def test_a_preset_scales_what_counts_steps() -> None:
    tree = {
        "steps": 150,
        "light": {"albedo_steps": 5, "cone": 60.0, "shares": [0.0, 0.0, 1.0]},
        "t_max": [[0, 0.85], [150, 0.5]],
        "distance": [3.0, 3.0],
        "betas": [0.9, 0.99],
        "paint_from": None,
    }
    assert scaled(tree, 2.0) == {
        "steps": 300,
        "light": {"albedo_steps": 10, "cone": 60.0, "shares": [0.0, 0.0, 1.0]},
        "t_max": [[0, 0.85], [300, 0.5]],
        "distance": [3.0, 3.0],
        "betas": [0.9, 0.99],
        "paint_from": None,
    }
    assert scaled({"steps": 1}, 0.5) == {"steps": 1}
    assert scaled([[0, 2.0], [39, 2.0], [40, 1.0]], 0.5) == [[0, 2.0], [20, 1.0]]


def test_a_preset_starts_from_any_configuration_and_set_has_the_last_word(tmp_path: Path) -> None:
    place = str(tmp_path / "run")
    choices = Choices(preset="fast", prior="exact", settings=["fine.steps=9"], out=place)
    config = begin("a red mushroom", choices).config
    assert config.coarse.steps == 175  # half of the exact prior's own 350
    assert config.fine.steps == 9
    assert config.coarse.prior.name == "exact"
    best = preset_settings("best", "a cat", "magic3d-sd15")
    assert best is not None
    assert (best["coarse"]["steps"], best["coarse"]["views"]) == (10_000, 8)
    assert best["coarse"]["losses"]["orientation"] == [[0, 10.0], [10_000, 1000.0]]
    assert preset_settings("default", "a cat", None) is None
    assert set(PRESETS) == {"fast", "default", "best"}
    with pytest.raises(UserError, match="--preset: expected fast, default, best"):
        preset_settings("slow", "a cat", None)


# Commands


def test_the_commands_print_tables_and_json(tmp_path: Path, command) -> None:
    run = finished(made(tmp_path, "one"))
    code, out, _ = command("list", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)[0]["stage"] == "exported"
    assert json.loads(command("show", str(run.folder), "--json")[1])["settings"] == {}
    assert command("compare", str(run.folder), str(run.folder))[0] == 0
    found = json.loads(command("settings", "--json", "speck")[1])
    assert [row["key"] for row in found] == ["export.speck_share"]
    assert command("configs")[0] == 0
    assert command("show", str(tmp_path / "nowhere"))[0] == 2
    assert open_run(str(run.folder)).config == run.config


def test_the_version_is_told(command) -> None:
    code, out, _ = command("--version")
    assert code == 0
    assert out.startswith("maquette")

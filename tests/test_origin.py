"""Nothing stale is taken for done: what a result was made of is compared with what the run says."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from maquette import pipeline
from maquette.coarse.train import run_coarse
from maquette.common.errors import UserError
from maquette.common.runs.checkpoints import read_tensors, steps_on_disk
from maquette.common.runs.coarse_result import RESULT
from maquette.common.runs.folder import lengthened, open_run
from maquette.common.runs.origin import FILE, Origin, changes, finish, outputs_whole
from maquette.fine.deliver import finish_export
from maquette.fine.train import run_fine


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def edit(folder: Path, old: str, new: str, stage: str = "") -> None:
    """Change config.yaml by hand, behind a stage's name."""
    path = folder / "config.yaml"
    head, mark, tail = path.read_text().partition(f"\n{stage}:\n" if stage else "format:")
    assert old in tail
    path.write_text(head + mark + tail.replace(old, new, 1))


def all_stages(folder: Path, redo: bool = False) -> None:
    opened = open_run(str(folder))
    run_coarse(opened, redo)
    run_fine(opened, redo)
    finish_export(opened)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_done_is_left_alone(run: Path) -> None:
    before = contents(run)
    all_stages(run)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("stage", "old", "new", "words"),
    [
        ("coarse", "samples: 24", "samples: 32", ["coarse stage", "samples was 24 and is 32"]),
        ("coarse", "steps: 12", "steps: 6", ["coarse stage", "steps was 12 and is 6"]),
        ("coarse", "resolution: 16", "resolution: 32", ["coarse stage", "occupancy.resolution"]),
        ("handoff", "views: 16", "views: 17", ["coarse stage", "handoff.views was 16"]),
        ("fine", "resolution: 24", "resolution: 32", ["fine stage", "geometry.resolution"]),
        ("fine", "prompt: null", "prompt: a blue cat", ["fine stage", "a blue cat"]),
        ("", "seed: 0", "seed: 3", ["coarse stage", "seed was 0 and is 3"]),
    ],
)
def test_an_edited_configuration_is_told_and_nothing_is_lost(
    run: Path, stage: str, old: str, new: str, words: list[str]
) -> None:
    edit(run, old, new, stage)
    before = contents(run)
    with pytest.raises(UserError) as caught:
        all_stages(run)
    line = str(caught.value)
    assert all(word in line for word in words), line
    assert "put that back" in line
    assert "--redo" in line
    assert contents(run) == before


def test_what_matters_not_changes_nothing(run: Path) -> None:
    edit(run, "checkpoint_every: 5", "checkpoint_every: 7", "coarse")
    before = contents(run)
    all_stages(run)
    assert contents(run) == before


def test_redo_keeps_the_old_beside(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit(run, "steps: 6", "steps: 3", "fine")
    coarse, fine = contents(run / "coarse"), contents(run / "fine")
    all_stages(run, redo=True)
    told = capfd.readouterr().err
    assert "steps was 6 and is 3" in told
    assert "kept as fine-1/" in told
    assert contents(run / "fine-1") == fine
    assert contents(run / "coarse") == coarse
    assert steps_on_disk(run / "fine")[-1] == 3
    assert "the fine stage's result is another one; exporting again" in told


def test_more_steps_go_on_with_a_finished_stage(run: Path) -> None:
    opened = lengthened(open_run(str(run)), {"coarse": 15, "fine": None})
    assert open_run(str(run)).config.coarse.steps == 15
    before = read_tensors(run / "coarse" / RESULT)
    run_coarse(opened)
    events = [json.loads(x) for x in (run / "events.jsonl").read_text().splitlines()]
    begun = [e["step"] for e in events if e["event"] == "stage started" and e["stage"] == "coarse"]
    assert begun[-1] == 12
    after = read_tensors(run / "coarse" / RESULT)
    assert not torch.equal(before["inside"], after["inside"])
    with pytest.raises(UserError, match="coarse stage's result is another one"):
        run_fine(opened)
    run_fine(opened, redo=True)
    with pytest.raises(UserError, match="has 15 already"):
        lengthened(opened, {"coarse": 3})


def test_damaged_and_deleted_outputs_are_made_again(run: Path) -> None:
    before = contents(run)
    for name in ("coarse/preview.png", "fine/preview.png", "export/a-red-mushroom.glb"):
        (run / name).write_bytes(b"damaged")
        all_stages(run)
        assert (run / name).read_bytes() == before[name], name
        (run / name).unlink()
        all_stages(run)
        assert (run / name).read_bytes() == before[name], name


def test_an_export_of_other_settings_is_made_again(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(run, "faces: 1500", "faces: 400", "export")
    all_stages(run)
    assert "faces was 1500 and is 400; exporting again" in capfd.readouterr().err
    assert json.loads((run / "export" / "report.json").read_text())["faces_out"] <= 400


def test_other_weights_are_told(tmp_path: Path) -> None:
    now = Origin({"steps": 3}, {"the prior": "a", "the input": "b"})
    (tmp_path / "x").write_text("made")
    finish(tmp_path, now, "x")
    assert changes(tmp_path, now) == {}
    assert changes(tmp_path, Origin({"steps": 3}, {"the prior": "a"})) == {}
    found = changes(tmp_path, Origin({"steps": 4}, {"the prior": "c"}))
    assert found == {"steps": (3, 4), "the prior": ("a", "c")}
    assert outputs_whole(tmp_path, "x")
    (tmp_path / "x").write_text("spoilt")
    assert not outputs_whole(tmp_path, "x")
    (tmp_path / FILE).write_text("{")
    assert changes(tmp_path, Origin({})) == {}  # a run of before this was kept


def test_the_command_line_tells_it_in_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(run, "samples: 24", "samples: 32", "coarse")
    monkeypatch.setattr(sys, "argv", ["maquette", "resume", str(run)])
    with pytest.raises(SystemExit) as ended:
        pipeline.main()
    told = capfd.readouterr().err
    assert ended.value.code == 2
    assert told.count("\n") == 1
    assert "samples was 24 and is 32" in told


def test_a_stage_made_before_a_setting_was_there_was_made_with_its_default(tmp_path: Path) -> None:
    finish(tmp_path, Origin({"steps": 5, "prior": {"name": "exact"}}))
    new = {"steps": 5, "prior": {"name": "exact", "joint_views": 1}}
    defaults = {"steps": 9, "prior": {"name": "exact", "joint_views": 1}}
    assert not changes(tmp_path, Origin(new, {}, defaults))
    new["prior"] = {"name": "exact", "joint_views": 2}
    found = changes(tmp_path, Origin(new, {}, defaults))
    assert found == {"prior.joint_views": (1, 2)}
    assert changes(tmp_path, Origin({**new, "steps": 9}, {}, defaults))["steps"] == (5, 9)

"""The export of a run: one set of files, made of one result, as it was asked for last."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from maquette import pipeline
from maquette.common.errors import UserError
from maquette.common.runs.checkpoints import checkpoint_path
from maquette.common.runs.folder import open_run
from maquette.common.runs.origin import FILE
from maquette.fine import deliver
from maquette.fine.deliver import OPTIONS, finish_export, run_export
from maquette.fine.meshes.read import read_mesh

NAME = "a-red-mushroom"


@pytest.fixture
def folder(tmp_path: Path, small_run: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_that_is_cut_off_is_finished_as_it_was_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(str(folder))
    before = contents(run.export)

    def fail(*_, **__) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deliver, "export", fail)
        with pytest.raises(KeyboardInterrupt):
            run_export(run, {"faces": 300, "formats": "glb,stl"})
    assert contents(run.export) == before
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []
    finish_export(run)
    after = contents(run.export)
    assert set(after) == {f"{NAME}.glb", f"{NAME}.stl", "turntable.png", "report.json", FILE}
    assert json.loads(after["report.json"])["faces_out"] <= 300
    finish_export(run)
    assert contents(run.export) == after  # nothing is done twice


def test_files_that_changed_or_belong_to_another_result_are_made_anew(folder: Path) -> None:
    run = open_run(str(folder))
    before = contents(run.export)
    (run.export / f"{NAME}.png").write_bytes(before[f"{NAME}.obj"])
    finish_export(run)
    after = contents(run.export)
    assert {n: after[n] for n in before if n != "report.json"} == {
        n: before[n] for n in before if n != "report.json"
    }
    report = json.loads(after["report.json"])
    other = {**report, "made_of": "0" * 32}
    (run.export / "report.json").write_text(json.dumps(other))
    finish_export(run)
    assert json.loads((run.export / "report.json").read_text())["made_of"] == report["made_of"]


def test_a_damaged_record_is_told(folder: Path) -> None:
    (folder / OPTIONS).write_text("[")
    with pytest.raises(UserError, match=r"export\.json is damaged"):
        finish_export(open_run(str(folder)))
    assert checkpoint_path(folder / "fine", 6).is_file()


def test_a_full_disk_costs_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder / "export")

    def full(*_, **__) -> None:
        raise OSError(27, "File too large", "x.glb")

    monkeypatch.setattr("maquette.fine.export.export.write_glb", full)
    monkeypatch.setattr(sys, "argv", ["maquette", "export", str(folder), "--faces", "300"])
    with pytest.raises(SystemExit) as ended:
        pipeline.main()
    assert ended.value.code == 2
    assert "File too large (x.glb)" in capfd.readouterr().err
    assert contents(folder / "export") == before


def test_a_print_stands_on_its_foot_in_millimetres(folder: Path) -> None:
    run = open_run(str(folder))
    run_export(run, {"target": "print", "height": "80mm", "faces": 400})
    for kind in ("3mf", "stl"):
        mesh = read_mesh(run.export / f"{NAME}.{kind}")
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        assert high[2] - low[2] == pytest.approx(80.0, abs=1e-3)
        assert low[2] == pytest.approx(0.0, abs=1e-3)
        np.testing.assert_allclose(low[:2] + high[:2], 0.0, atol=1e-2)
    report = json.loads((run.export / "report.json").read_text())
    assert report["shape"]["closed"]
    assert report["shape"]["manifold"]

"""A set of files is the old one or the new one, wherever its replacement is cut off."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from maquette.common.runs import whole_folder
from maquette.common.runs.whole_folder import digests, replaced, settle, unchanged

LIST = "list.json"


def write(folder: Path, word: str) -> None:
    for name in ("a.obj", "a.png"):
        (folder / name).write_text(f"{word} {name}")
    (folder / LIST).write_text(f'["a.obj", "a.png"] {word}')


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


class CutError(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(params=["one step", "two renames"])
def system(request, monkeypatch) -> None:
    if request.param == "two renames":
        monkeypatch.setattr(whole_folder, "_exchange", lambda one, two: False)


@pytest.mark.usefixtures("system")
def test_the_new_set_takes_the_place_of_the_old(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    for word in ("first", "second"):
        with replaced(folder, LIST) as new:
            write(new, word)
            assert not folder.exists() or "first" in (folder / "a.obj").read_text()
        assert contents(folder)["a.obj"] == f"{word} a.obj"
        assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.usefixtures("system")
def test_what_somebody_else_put_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    with replaced(folder, LIST) as new:
        write(new, "first")
    (folder / "notes.txt").write_text("mine")
    with replaced(folder, LIST) as new:
        write(new, "second")
        (new / "a.png").unlink()
    assert set(contents(folder)) == {"a.obj", LIST, "notes.txt"}


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("begun", [False, True])
def test_every_cut_leaves_one_whole_set(tmp_path: Path, monkeypatch, begun: bool) -> None:
    """Each call that changes a name on the disk is the last one, in turn."""
    folder = tmp_path / "run" / "export"
    calls = {name: getattr(os, name) for name in ("replace", "unlink", "mkdir", "rmdir")}
    exchange = whole_folder._exchange

    def attempt(limit: int) -> bool:
        """Replace the first set by the second, cut off after `limit` calls; whether it ended."""
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir()
        if begun:
            with replaced(folder, LIST) as new:
                write(new, "first")
        left = limit

        def counted(function):
            def call(*arguments, **named):
                nonlocal left
                if left == 0:
                    raise CutError
                left -= 1
                return function(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name, function in calls.items():
                patch.setattr(os, name, counted(function))
            patch.setattr(whole_folder, "_exchange", counted(exchange))
            # A process that is killed cleans nothing up.
            patch.setattr(shutil, "rmtree", counted(whole_folder.shutil.rmtree))
            try:
                with replaced(folder, LIST) as new:
                    write(new, "second")
            except CutError:
                return False
        return True

    for limit in range(100):
        ended = attempt(limit)
        if not begun and not folder.exists():
            settle(folder, LIST)
        settle(folder, LIST)
        found = contents(folder) if folder.exists() else {}
        words = {text.split()[0] for name, text in found.items() if name != LIST}
        assert len(words) <= 1
        assert words <= {"first", "second"}
        assert words or not begun
        assert [path.name for path in folder.parent.iterdir()] in ([], ["export"])
        if ended:
            assert words == {"second"}
            break
    assert 2 < limit < 99


def test_an_error_leaves_the_old_set(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    with replaced(folder, LIST) as new:
        write(new, "first")

    def fail() -> None:
        with replaced(folder, LIST) as new:
            write(new, "second")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert contents(folder)["a.obj"] == "first a.obj"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_changed_and_missing_files_are_noticed(tmp_path: Path) -> None:
    write(tmp_path, "first")
    known = digests(tmp_path, ["a.obj", "a.png"])
    assert unchanged(tmp_path, known)
    (tmp_path / "a.png").write_text("other")
    assert not unchanged(tmp_path, known)
    (tmp_path / "a.png").unlink()
    assert not unchanged(tmp_path, known)

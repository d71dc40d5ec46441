"""A folder of files that belong together: the old set or the new one, never a mixture.

The new set is made beside the old one, under a hidden name, and takes its place in one step, where
the system has such a step (Linux and macOS exchange two names at once). Elsewhere there are two
renames, and `settle` finishes what was cut off between them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..files import sync_folder

_UNFINISHED = ".unfinished"
_CWD, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS


@contextmanager
def replaced(folder: Path, listed: str) -> Iterator[Path]:
    """A new, empty folder that takes the place of `folder` when the block ends well.

    listed: the name of the set's own list of its files, see `own_files`. Files of the old set that
    no list names were put there by somebody else, and are taken over. If the block raises, or the
    process ends, in the middle, `folder` is as it was. Raises OSError where the disk does.
    """
    settle(folder, listed)
    new = _new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new.mkdir()
    mark = new / _UNFINISHED
    mark.touch()
    try:
        yield new
        for path in new.iterdir():
            _sync_file(path)
        mark.unlink()
        sync_folder(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    _take_place(new, folder)
    sync_folder(folder.parent)
    settle(folder, listed)


def settle(folder: Path, listed: str) -> None:
    """Finish or undo what a replacement of `folder` that was cut off has left behind."""
    new, old = _new(folder), _old(folder)
    if (new / _UNFINISHED).exists():
        shutil.rmtree(new)
    if old.is_dir() and not folder.exists():  # cut off between two renames
        os.replace(new if new.is_dir() else old, folder)
    for left in (new, old):
        if left.is_dir() and not folder.exists():  # complete, and never there before
            os.replace(left, folder)
        if left.is_dir():
            _take_over(left, folder, listed)
            shutil.rmtree(left)


def digest_of(path: Path) -> str:
    """A short hash of a file's content."""
    total = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(2**20):
            total.update(block)
    return total.hexdigest()


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The hash of each of a folder's files, by name."""
    return {name: digest_of(folder / name) for name in names}


def unchanged(folder: Path, known: Mapping[str, str]) -> bool:
    """Whether all files that `digests` told of are there, and as they were."""
    try:
        return all(digest_of(folder / name) == value for name, value in known.items())
    except OSError:
        return False


def own_files(folder: Path, listed: str) -> set[str]:
    """The names of a set's own files: every word in the list that is the name of a file there."""
    try:
        text = (folder / listed).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    return {listed} | {path.name for path in folder.iterdir() if f'"{path.name}"' in text}


def _take_over(left: Path, folder: Path, listed: str) -> None:
    """Move what somebody else put into an old set to the new one, if its name is free there."""
    own = own_files(left, listed)
    for path in left.iterdir():
        if own and path.name not in own and not (folder / path.name).exists():
            os.replace(path, folder / path.name)


def _take_place(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(new, folder)
        return
    if not _exchange(new, folder):
        os.replace(folder, _old(folder))
        os.replace(new, folder)


def _exchange(one: Path, two: Path) -> bool:
    """Let two names change places in one step; False where the system has no such step."""
    names = os.fsencode(one), os.fsencode(two)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform.startswith("linux"):
            return library.renameat2(_CWD, names[0], _CWD, names[1], _EXCHANGE) == 0
        if sys.platform == "darwin":
            return library.renamex_np(names[0], names[1], _EXCHANGE) == 0
    except (OSError, AttributeError, TypeError):
        return False  # an old C library, or none that can be asked
    return False


def _new(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Files that are written whole or not at all, and folders that one process writes into."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from . import ranks
from .errors import UserError, shown

_PART = ".part"


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    The data goes to a temporary name in the same folder, is synced, and then renamed. Of several
    processes at a run the first one writes.
    """
    if not ranks.now().first:
        return
    payload = data.encode("utf-8") if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_bytes(path: Path, most: int) -> bytes:
    """A file's content, at most `most` bytes of it; folders, pipes and devices are refused.

    Raises OSError, and ValueError for what is no plain file or too large.
    """
    # Opening a pipe would wait for someone to write into it.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no plain file")
        if found.st_size > most:
            raise ValueError(f"it is larger than {most} bytes")
        return file.read(most)


def read_text(path: Path, most: int) -> str:
    """`read_bytes` as UTF-8; UnicodeDecodeError, a ValueError, if it is none."""
    return read_bytes(path, most).decode("utf-8")


def expanded(text: str, what: str) -> Path:
    """The path that a user's text stands for, `~` written out; UserError if it can't be one.

    what: what to call it in messages.
    """
    try:
        place = Path(text).expanduser()
        place.exists()
    except RuntimeError:
        raise UserError(f"{what} {shown(text)}: there is no such home folder; check it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what}: {shown(text)}: {reason}; check the path") from None
    if not text.strip():
        raise UserError(f"{what}: the path is empty; give a file or a folder")
    return place


def digest_of(path: Path) -> str:
    """A digest of a file: of all of it up to 64 MiB, of its ends and 256 places in between beyond.

    So a model of many gigabytes is recognised in a moment.
    """
    size, block, total = path.stat().st_size, 2**16, hashlib.blake2b(digest_size=16)
    total.update(str(size).encode())
    with path.open("rb") as file:
        if size <= 2**26:
            while chunk := file.read(2**20):
                total.update(chunk)
        else:
            for place in range(256):
                file.seek(place * (size - block) // 255, os.SEEK_SET)
                total.update(file.read(block))
    return total.hexdigest()


def remove_parts(folder: Path) -> None:
    """Remove what `write_whole` left behind in a folder when the program was killed within it."""
    if not ranks.now().first:
        return
    for part in folder.glob(f".*{_PART}"):
        part.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep a second process of the program from writing into a folder, made if need be, meanwhile.

    The lock is the system's and ends with the process, however that ends. A file system without
    locks goes without. Raises UserError if another process has it; the other processes at the same
    run don't ask.
    """
    if not ranks.now().first:
        yield
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process is writing into {folder}; wait for it, or give another --out"
        ) from None
    except (OSError, NotImplementedError):
        pass  # there are file systems without locks
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes no open file
                (folder / ".lock").unlink()
            lock.release()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows offers no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

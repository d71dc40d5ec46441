"""Serving the page of a desk: where it listens, whom it lets in, what it hands out."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UserError
from ..runs.progress import say
from ..view.ports import LOOPBACK, free_port, is_loopback, told_listening
from .desk import DESK, Desk
from .page import build, gradio

PORT = 8180
USER = "maquette"
LARGEST = "20mb"
"""Of an upload; only pictures and meshes can be uploaded."""
MOST_COPIES = 2 << 30
"""Bytes of uploads and other temporary copies in all."""


def serve(desk: Desk, host: str = LOOPBACK, port: int = PORT, password: str | None = None) -> None:
    """Serve the page until the process is asked to stop; runs that work go on without it.

    Raises UserError as `opened` does.
    """
    with opened(desk, host, port, password) as address:
        say(f"maquette ui at {address}; Ctrl-C ends it, runs go on", important=True)
        threading.Event().wait()


@contextmanager
def opened(
    desk: Desk, host: str = LOOPBACK, port: int = PORT, password: str | None = None
) -> Iterator[str]:
    """The page of a desk, served within the block by threads of this process; gives its address.

    Raises UserError without gradio, and for a host beyond this machine without a password.
    """
    check_password(host, password)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    gr = gradio()
    port = free_port(host, port)
    stopped = threading.Event()
    fonts = ["system-ui", "sans-serif"]  # none from elsewhere
    with tempfile.TemporaryDirectory(prefix="maquette-ui-") as copies:
        os.environ["GRADIO_TEMP_DIR"] = copies  # what visitors upload is gone with the server
        blocks = build(desk)
        looking = threading.Thread(target=_turning, args=(desk, stopped, Path(copies)), daemon=True)
        looking.start()
        try:
            blocks.queue(max_size=200).launch(
                server_name=host,
                server_port=port,
                auth=None if not password else (USER, password),
                allowed_paths=[str(desk.root)],
                blocked_paths=[str(desk.root / DESK)],
                max_file_size=LARGEST,
                footer_links=["api"],
                theme=gr.themes.Default(font=fonts, font_mono=["monospace"]),
                quiet=True,
                share=False,
                prevent_thread_lock=True,
            )
            yield told_listening(host, port)
        finally:
            stopped.set()
            blocks.close(verbose=False)


def check_password(host: str, password: str | None) -> None:
    """Raise UserError for a page that others could reach and use without a password."""
    if not is_loopback(host) and not password:
        raise UserError(
            "others could make runs on this machine: give a password in MAQUETTE_PASSWORD, or "
            "leave --host at 127.0.0.1"
        )


def _turning(desk: Desk, stopped: threading.Event, copies: Path) -> None:
    """Start what waits, whether or not a page is open, and keep the temporary copies few."""
    while not stopped.wait(2.0):
        desk.turn()
        trim(copies, MOST_COPIES)


def trim(folder: Path, most: int) -> None:
    """Remove the oldest files of a folder until those that stay take at most so many bytes."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # it has gone meanwhile
            state = path.stat()
            if stat.S_ISREG(state.st_mode):
                found.append((state.st_mtime_ns, state.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > most:
            with suppress(OSError):
                path.unlink()

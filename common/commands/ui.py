"""The command that serves a page with forms: `ui`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError

Root = Annotated[str, typer.Option("--runs", metavar="FOLDER", help="Where the runs lie.")]
Host = Annotated[str, typer.Option("--host", metavar="HOST", help="Where it listens.")]
Port = Annotated[int, typer.Option("--port", metavar="N", help="Its port, or the next free one.")]
AtOnce = Annotated[int, typer.Option("--at-once", metavar="N", help="Runs at a time.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of all; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the command to a program."""
    app.command()(ui)


def ui(
    root: Root = "runs",
    host: Host = "127.0.0.1",
    port: Port = 8180,
    at_once: AtOnce = 1,
    settings: Settings = None,
) -> None:
    """Serve a page for those who use no shell; beyond this machine with MAQUETTE_PASSWORD."""
    from ..ui.desk import Desk
    from ..ui.server import check_password, serve

    if at_once < 1:
        raise UserError(f"--at-once: expected 1 or more, got {at_once}")
    password = os.environ.get("MAQUETTE_PASSWORD")
    check_password(host, password)  # before a folder is made
    serve(Desk(Path(root), at_once, tuple(settings or ())), host, port, password)

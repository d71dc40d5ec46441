"""The command that shows runs: `view`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import UserError

RunFolders = Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs.")]
Live = Annotated[bool, typer.Option("--live", help="Follow a run while it trains.")]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")]
Host = Annotated[str, typer.Option("--host", metavar="HOST", help="Where --live listens.")]
Port = Annotated[int, typer.Option("--port", metavar="N", help="Its port, or the next free one.")]


def register(app: typer.Typer) -> None:
    """Add the command to a program."""
    app.command()(view)


def view(
    run_folders: RunFolders,
    live: Live = False,
    opened: Open = True,
    host: Host = "127.0.0.1",
    port: Port = 8170,
) -> None:
    """Make a page of a run, or one that compares several; needs no network and no server."""
    if live:
        if len(run_folders) != 1:
            raise UserError("view --live follows one run; give one folder")
        from ..view.live import follow

        follow(run_folders[0], host, port)
        return
    from ..view.page import write_page

    path = write_page(run_folders)
    typer.echo(path)
    if opened:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())

"""The commands that find, compare and keep runs, and tell of settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError

RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]
RunFolders = Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, on standard output.")]
Root = Annotated[str, typer.Argument(metavar="FOLDER", help="The folder that holds the runs.")]


def register(app: typer.Typer) -> None:
    """Add the commands to a program."""
    app.command("list")(list_runs)
    for command in (show, compare, delete, clean, settings, configs):
        app.command()(command)


def list_runs(root: Root = "runs", as_json: AsJson = False) -> None:
    """List runs: prompt, stage, age, size, scores, poster."""
    from ..shelf.tables import list_json, list_lines

    typer.echo(list_json(root) if as_json else "\n".join(list_lines(root)))


def show(run_folder: RunFolder, as_json: AsJson = False) -> None:
    """Show a run: settings that differ from the default, times, report."""
    from ..shelf.tables import show_data, show_lines

    if as_json:
        typer.echo(json.dumps(show_data(run_folder), indent=2))
    else:
        typer.echo("\n".join(show_lines(run_folder)))


def compare(run_folders: RunFolders, as_json: AsJson = False) -> None:
    """Compare runs: what differs in settings, times and scores."""
    from ..shelf.tables import compare_data, compare_lines

    if as_json:
        typer.echo(json.dumps(compare_data(run_folders), indent=2))
    else:
        typer.echo("\n".join(compare_lines(run_folders)))


def delete(
    run_folders: RunFolders,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Remove runs with all their files; asks before."""
    from ..shelf.cleaning import check_run, delete_run
    from ..shelf.summary import size_of, told_size

    folders = [Path(folder) for folder in run_folders]
    for folder in folders:  # all of them before the first is gone
        check_run(folder)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("delete asks, and nobody is there to answer; give --yes")
        told = told_size(sum(size_of(folder) for folder in folders))
        names = ", ".join(map(str, folders))
        if not typer.confirm(f"Remove {names} ({told})?"):
            typer.echo("nothing was removed")
            return
    for folder in folders:
        typer.echo(f"removed {folder}, {told_size(delete_run(folder))}")


def clean(run_folders: RunFolders) -> None:
    """Drop what finished runs don't need to be exported again: checkpoints, previews, logs."""
    from ..shelf.cleaning import clean_run
    from ..shelf.summary import told_size

    for folder in run_folders:
        typer.echo(f"{folder}: freed {told_size(clean_run(folder))}")


def settings(
    words: Annotated[
        str | None, typer.Argument(metavar="[WORDS]", help="What to look for in names and texts.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The page of the docs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell of every setting: type, default, range, what it is, where it is declared."""
    from dataclasses import asdict

    from ..shelf.settings import all_settings
    from ..shelf.settings import markdown as page
    from ..shelf.tables import settings_lines

    if markdown:
        typer.echo(page(), nl=False)
    elif as_json:
        rows = [asdict(row) for row in all_settings() if not words or row.matches(words)]
        typer.echo(json.dumps(rows, indent=2))
    else:
        typer.echo("\n".join(settings_lines(words)))


def configs() -> None:
    """List the configurations and presets that come with the program."""
    from ..shelf.tables import configs_lines

    typer.echo("\n".join(configs_lines()))

"""The options by which a command that takes minutes is watched, added to it in one line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..runs.watching import Watching, choose

_HELP = "Watching"

Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Results and warnings alone.", rich_help_panel=_HELP),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON object a line, see docs/watch.md.", rich_help_panel=_HELP
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Tell every recorded event.", rich_help_panel=_HELP),
]
Previews = Annotated[
    int | None,
    typer.Option(
        "--previews",
        metavar="N",
        help="Pictures a stage, whatever they take; 20 in 1 % of its time unless given.",
        rich_help_panel=_HELP,
    ),
]
Films = Annotated[
    bool,
    typer.Option("--films/--no-films", help="Turntables and the film.", rich_help_panel=_HELP),
]
Log = Annotated[
    str,
    typer.Option(
        "--log", metavar="NAME", help="auto, tensorboard, wandb or none.", rich_help_panel=_HELP
    ),
]
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "quiet": (Quiet, False),
    "as_json": (Json, False),
    "verbose": (Verbose, False),
    "previews": (Previews, None),
    "films": (Films, True),
    "log": (Log, "auto"),
}


def watched(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with the options of this file, which it need not know of."""

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        options = {name: values.pop(name) for name in _OPTIONS}
        choose(chosen(**options))
        command(**values)

    own = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _OPTIONS.items()
    ]
    wrapper.__signature__ = own.replace(  # pyright: ignore[reportAttributeAccessIssue]
        parameters=[*own.parameters.values(), *added]
    )
    wrapper.__annotations__ = {
        **{name: each.annotation for name, each in own.parameters.items()},
        **{name: kind for name, (kind, _) in _OPTIONS.items()},
        "return": None,
    }
    return wrapper


def chosen(
    quiet: bool, as_json: bool, verbose: bool, previews: int | None, films: bool, log: str
) -> Watching:
    """What the options ask for. Raises UserError for some that don't go together."""
    if quiet and (as_json or verbose):
        raise UserError("--quiet goes with neither --json nor --verbose; give one of them")
    if previews is not None and not 0 <= previews <= 1000:
        raise UserError(f"--previews: expected 0 to 1000 pictures a stage, got {previews}")
    match log:
        case "auto" | "tensorboard" | "wandb" | "none":
            pass
        case _:
            raise UserError(f"--log: expected auto, tensorboard, wandb or none, got '{log}'")
    output = "json" if as_json else "quiet" if quiet else "people"
    if previews is None:
        return Watching(output, verbose, films=films, log=log)
    return Watching(output, verbose, previews, share=1.0, films=films, log=log)

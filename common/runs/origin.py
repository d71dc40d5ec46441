"""What a stage's result was made of, kept beside it, so that nothing stale is taken for done.

`made-from.json` in a stage's folder holds the settings that matter to it, digests of what it was
given (the stage before, the prior's weights), the program's version, and digests of its outputs.
A run is compared with it before a stage goes on or is called done.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError, shown
from ..files import digest_of, read_text, write_whole
from .folder import Run
from .progress import say

FILE = "made-from.json"
MEMORY = (
    *("vram", "offload", "text_on_cpu", "attention_slicing", "vae_slicing", "vae_tiling"),
    *("checkpoint_vae", "compile", "channels_last"),
)
"""Settings of a prior that change how it is computed, and not what."""


@dataclass(frozen=True)
class Origin:
    """What a stage is made of.

    settings: plain data. given: digests by name; one that can't be told now is left out.
    defaults: of settings; a result of a version that did not have one of them yet was made with it.
    """

    settings: Mapping[str, Any]
    given: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


def version() -> str:
    """The program's version."""
    try:
        return importlib.metadata.version("maquette")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def stage_settings(config: Any, **others: Any) -> dict[str, Any]:
    """The settings of a stage's configuration that its result depends on, and others beside."""
    tree = config.model_dump(mode="json")
    tree.pop("checkpoint_every", None)
    if isinstance(tree.get("prior"), dict):
        tree["prior"] = {k: v for k, v in tree["prior"].items() if k not in MEMORY}
    return {**tree, **others}


def default_settings(config: Any) -> dict[str, Any]:
    """What a configuration of the same kind says where nobody said anything."""
    return type(config)().model_dump(mode="json")


def changes(folder: Path, now: Origin) -> dict[str, tuple[Any, Any]]:
    """What differs from what a folder's result was made of: name -> (then, now).

    Empty where nothing is known of it.
    """
    then = _read(folder)
    if then is None:
        return {}
    old, new = _flat(then["settings"]), _flat(now.settings)
    old = {**{k: v for k, v in _flat(now.defaults).items() if k in new}, **old}
    found = {k: (old.get(k), new.get(k)) for k in {**new, **old} if old.get(k) != new.get(k)}
    given = then["given"]
    for name, digest in now.given.items():
        if given.get(name, digest) != digest:
            found[name] = (given[name], digest)
    return found


def agree(run: Run, folder: Path, name: str, now: Origin, redo: bool, steps: int | None) -> None:
    """Make sure that what a stage's folder holds was made of what the run now says.

    name: the stage's. redo: whether a result of something else is put aside. steps: of which the
    newest checkpoint is, if there is one; more steps than that are gone on with. Raises UserError
    with what changed and both choices.
    """
    found = changes(folder, now)
    then = _read(folder)
    if then is not None and then["version"] != version():
        run.warn(
            f"the {name} stage was begun with version {then['version']} of the program, and this "
            f"is {version()}: the last bits may differ"
        )
    longer = steps is not None and set(found) == {"steps"} and found["steps"][1] >= steps
    if longer:
        say(f"{name}: going on from step {steps} to {found['steps'][1]}")
    elif found and redo:
        aside = _put_aside(folder)
        say(f"{name}: {told(name, found)}; doing it again, the old one is kept as {aside.name}/")
        run.event("put aside", stage=name, folder=aside.name, changed=sorted(found))
    elif found:
        raise UserError(
            f"{run.folder}: {told(name, found)}; put that back, or do the stage and what follows "
            f"again: maquette resume {run.folder} --redo"
        )
    if not folder.exists() or then is None or found:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, now, {})


def finish(folder: Path, now: Origin, *outputs: str) -> None:
    """Record the outputs of a stage that is done."""
    _write(folder, now, {name: digest_of(folder / name) for name in outputs})


def outputs_whole(folder: Path, *outputs: str) -> bool:
    """Whether a stage's outputs are there, and as they were written (where that is known)."""
    then = _read(folder)
    known = {} if then is None else then["outputs"]
    for name in outputs or known:
        path = folder / name
        if not path.is_file() or (name in known and digest_of(path) != known[name]):
            return False
    return True


def told(name: str, found: Mapping[str, tuple[Any, Any]]) -> str:
    """Changes in words."""
    parts = [
        f"{key} was {shown(then, 24)} and is {shown(now, 24)}"
        if key in _keys(found)
        else f"{key} is another one"
        for key, (then, now) in sorted(found.items())
    ]
    more = f" and {len(parts) - 2} more" if len(parts) > 2 else ""
    return f"since the {name} stage was made, {', '.join(parts[:2])}{more}"


def _keys(found: Mapping[str, tuple[Any, Any]]) -> set[str]:
    """Those of the changes that are settings, and not digests."""
    return {key for key in found if not key.startswith("the ")}


def _put_aside(folder: Path) -> Path:
    for number in range(1, 10_000):
        aside = folder.with_name(f"{folder.name}-{number}")
        if not aside.exists():
            os.replace(folder, aside)
            return aside
    raise UserError(f"too many old results beside {folder}; remove some")


def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}{key}.")
        else:
            found[path + key] = value
    return found


def _read(folder: Path) -> dict[str, Any] | None:
    """What a folder says of its origin; None if nothing, or nothing that can be read."""
    try:
        found = json.loads(read_text(folder / FILE, 2**20))
        parts = ("settings", "given", "outputs")
        whole = all(isinstance(found[part], dict) for part in parts)
        return found if whole and isinstance(found["version"], str) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(folder: Path, origin: Origin, outputs: Mapping[str, str]) -> None:
    found = {
        "version": version(),
        "settings": dict(origin.settings),
        "given": dict(origin.given),
        "outputs": dict(outputs),
    }
    write_whole(folder / FILE, json.dumps(found, indent=1) + "\n")

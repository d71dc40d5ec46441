"""A run is a folder: its configuration, its events, and one folder a stage.

runs/<slug>/config.yaml     complete, with the seed and the versions it began with
runs/<slug>/events.jsonl    what happened when, one JSON object a line
runs/<slug>/coarse/ fine/   checkpoints and previews
runs/<slug>/export/         the files for the user
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import ranks
from ..config.differences import clash
from ..config.models import RunConfig
from ..config.reading import LARGEST, changed, safe_yaml, to_yaml, validate
from ..errors import UserError, shown
from ..files import read_text, write_whole
from ..threads import MOST

FORMAT = 2
CLEANED = "cleaned.json"
"""In a run's folder: what was dropped of a finished run on purpose; it can still be exported."""
RECORDED = ("maquette", "torch", "numpy", "numba", "nerfacc", "diffusers", "transformers")
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$")  # names Windows keeps for itself


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    folder: Path
    config: RunConfig
    threads: int | None = None
    """How many it began with; sums in another number of parts round another way."""

    @property
    def coarse(self) -> Path:
        """The coarse stage's folder."""
        return self.folder / "coarse"

    @property
    def fine(self) -> Path:
        """The fine stage's folder."""
        return self.folder / "fine"

    @property
    def export(self) -> Path:
        """The exported files' folder."""
        return self.folder / "export"

    def event(self, name: str, **values: Any) -> None:
        """Append one line to events.jsonl; of several processes the first one does."""
        from .progress import heard

        if not ranks.now().first:
            return
        line = {"time": round(time.time(), 3), "event": name, **values}
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        heard(line)

    def warn(self, message: str) -> None:
        """Tell the user something that does not stop the run, and record it."""
        from .progress import say

        say(f"warning: {message}", important=True)
        self.event("warning", message=message)


def slug(text: str) -> str:
    """A folder name for any prompt: lower-case ASCII words joined by '-', at most 57 characters.

    A prompt that loses letters on the way (length, script, only signs) gets a short hash of the
    whole text at its end, so that two such prompts do not share a name.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    name = words[:48].strip("-")
    faithful = re.sub(r"[\s.,!?'\"-]+", "-", text.lower()).strip("-") == name
    if not name or not faithful or _RESERVED.match(name):
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        name = f"{name}-{digest}" if name else digest
    return name


def open_or_create(
    config: RunConfig,
    out: str | None,
    name: str | None = None,
    root: Path = Path("runs"),
    threads: int | None = None,
) -> Run:
    """The run of `config`: a new folder, or the one an equal configuration began.

    out: the run's own folder; None chooses `runs/<slug of name or prompt>`, with a number behind it
    if that is taken by a run of another configuration. Raises UserError if `out` holds something
    else or a folder cannot be written.
    """
    try:
        first = root / slug(name or config.prompt)
        return _reopened_or_created(config, out, first, threads)
    except ValueError:
        raise UserError("--out holds a zero byte, which no path can; give another") from None
    except OSError as error:  # a name too long, a folder that must not be looked into
        raise _unwritable(Path(out) if out is not None else root, error) from None
    except RuntimeError:  # of `expanduser`
        raise UserError(f"--out {shown(out)}: there is no such home folder") from None


def _reopened_or_created(
    config: RunConfig, out: str | None, first: Path, threads: int | None
) -> Run:
    """`open_or_create`, where `first` is the first of the names to try without `out`."""
    if out is not None:
        folder = Path(out).expanduser()
        if (folder / "config.yaml").exists():
            return same_run(folder, config)
        if (around := run_around(folder)) is not None:
            raise UserError(
                f"{shown(folder, 120)} lies within the run {shown(around, 120)}; choose another "
                "--out"
            )
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run; choose another --out")
        return _create(folder, config, threads)
    for number in range(1, 10_000):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        if not folder.exists():
            return _create(folder, config, threads)
        if (folder / "config.yaml").exists():
            try:
                run = open_run(str(folder))
            except UserError:
                continue  # a damaged or older run keeps its name; this one takes the next
            if run.config == config:
                return run
    raise UserError(f"too many runs are called {first}; remove some or give --out FOLDER")


def same_run(folder: Path, config: RunConfig) -> Run:
    """The run in a folder; UserError if other settings began it, or where `open_run` raises one."""
    run = open_run(str(folder))
    if run.config != config:
        raise UserError(
            f"{folder} holds a run with other settings ({clash(run.config, config)}); "
            f"choose another --out, or go on with that one: maquette resume {folder}"
        )
    return run


def open_run(folder: str) -> Run:
    """An existing run; UserError if it is missing, of another version, or damaged."""
    if not folder.strip() or "\0" in folder:
        raise UserError("RUN is empty; give the folder that `maquette run` printed")
    path = Path(folder)
    file = path / "config.yaml"
    try:
        if folder.startswith("~") and not path.exists():
            path = path.expanduser()
            file = path / "config.yaml"
        if not path.is_dir():
            raise UserError(
                f"no run folder '{shown(folder)}'; give the folder that `maquette run` printed"
            )
        if not file.is_file():
            raise UserError(
                f"'{shown(folder)}' is not a run folder: it has no config.yaml; give the folder "
                "that `maquette run` printed"
            )
        text = read_text(file, LARGEST)
    except OSError as error:
        raise UserError(f"cannot open the run '{shown(folder)}' ({error.strerror})") from None
    except RuntimeError:
        raise UserError(f"no run folder '{shown(folder)}': there is no such home folder") from None
    except ValueError:
        raise UserError(f"{file} is damaged: it is not a run's configuration; restore it") from None
    try:
        tree = safe_yaml(text)
        found = tree.pop("format")
        tree.pop("versions", None)
        written = tree.pop("digest", None)
        threads = tree.pop("threads", None)
        if threads is not None and not (type(threads) is int and 1 <= threads <= MOST):
            raise ValueError("threads")
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError):
        raise UserError(f"{file} is damaged: it is not a run's configuration; restore it") from None
    if found != FORMAT:
        age = "a later" if isinstance(found, int) and found > FORMAT else "an earlier"
        raise UserError(
            f"{path} is a run of {age} version (format {shown(found)}, this version reads format "
            f"{FORMAT}); open it with the version that made it, or start a new run"
        )
    try:
        config = validate(tree)
    except UserError as error:
        raise UserError(f"{file} is damaged or of another version: {error}") from None
    complete = config.model_dump(mode="json")
    if complete != tree and not (written == _digest(tree) and _within(tree, complete)):
        raise UserError(
            f"{file} is damaged, or of an earlier version: it isn't the complete configuration; "
            "restore it, or start a new run"
        )
    return Run(path, config, threads)


def _digest(tree: Mapping[str, Any]) -> str:
    """Of a configuration as it is written; one that fits says that nothing of it was lost."""
    text = json.dumps(tree, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _within(part: Any, whole: Any) -> bool:
    """Whether all that a tree of settings says stands in another one, which may say more."""
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        return all(key in whole and _within(value, whole[key]) for key, value in part.items())
    return part == whole


def run_around(place: Path) -> Path | None:
    """The run whose folder holds a path, or is it; None if there is none.

    Nothing but the run itself writes there.
    """
    place = Path(os.path.abspath(place.expanduser()))
    for folder in (place, *place.parents):
        if (folder / "config.yaml").is_file() and (folder / "events.jsonl").is_file():
            return folder
    return None


def lengthened(run: Run, steps: Mapping[str, int | None]) -> Run:
    """The same run with more steps of some stages, in its configuration file too.

    steps: by stage; None leaves a stage as it is. Raises UserError for fewer than there were.
    """
    config = run.config
    for stage, count in steps.items():
        before = getattr(config, stage).steps
        if count is not None and count < before:
            raise UserError(
                f"--{stage}-steps {shown(count)}: the {stage} stage has {before} already; give "
                "more, or begin another run"
            )
        config = changed(config, stage, {"steps": count})
    if config == run.config:
        return run
    given = {k: v for k, v in steps.items() if v is not None}
    return rewritten(run, config, "more steps", **given)


def rewritten(run: Run, config: RunConfig, event: str, **values: Any) -> Run:
    """The same run with another configuration, in its file too; the change is kept as an event."""
    changed_run = Run(run.folder, config, run.threads)
    write_whole(run.folder / "config.yaml", _text(changed_run))
    changed_run.event(event, **values)
    return changed_run


def _text(run: Run) -> str:
    """The configuration file of a run.

    Settings that a later version adds, and that are not in it, have their defaults, with which
    all is as before they were there.
    """
    head: dict[str, Any] = {"format": FORMAT, "versions": _versions()}
    head["digest"] = _digest(run.config.model_dump(mode="json"))
    if run.threads is not None:
        head["threads"] = run.threads
    return yaml.safe_dump(head, sort_keys=False) + to_yaml(run.config)


def _create(folder: Path, config: RunConfig, threads: int | None) -> Run:
    run = Run(folder, config, threads)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.yaml", _text(run))
    except OSError as error:
        raise _unwritable(folder, error) from None
    run.event("created", prompt=config.prompt, seed=config.seed)
    return run


def _unwritable(folder: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    place = shown(folder, 120)
    return UserError(f"cannot write to {place} ({reason}); choose another folder with --out")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # maquette itself, when run from a checkout without an install
    return found

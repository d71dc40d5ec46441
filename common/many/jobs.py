"""The jobs of a batch, read from a file of prompts or of settings; each has a folder of its own.

prompts.txt holds a prompt a line; empty lines and lines that begin with # are left out.
jobs.yaml holds `jobs`, a list of prompts or of mappings, and `defaults`, a mapping that every job
starts from. A mapping has `prompt`, and may have `config`, `preset`, `prior`, `vram`, `loras`,
`seed`, `device`, `name`, `set` (settings by dotted key) and `grid` (a list of values by key, or
`seed`; a job of each combination).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..begin import Choices, plan
from ..errors import UserError, nearest
from ..guidance.choose import with_absolute_paths
from ..runs.folder import same_run, slug

_TEXTS = ("config", "preset", "prior", "vram", "device")
_KEYS = ("prompt", "name", "seed", "loras", "set", "grid", *_TEXTS)


@dataclass(frozen=True)
class Job:
    """One run to be made. folder: its own; told to `begin` as `out`."""

    prompt: str
    choices: Choices
    folder: Path

    @property
    def name(self) -> str:
        """Its folder's name, by which people know it."""
        return self.folder.name

    def as_data(self) -> dict[str, Any]:
        """Plain data, which any process can make the job of again."""
        return {
            "prompt": self.prompt,
            "choices": asdict(self.choices),
            "folder": str(self.folder),
        }

    def absolute(self) -> Job:
        """The same job, wherever a process stands."""
        folder = self.folder.resolve()
        choices = replace(self.choices, out=str(folder))
        if choices.config is not None and Path(choices.config).is_file():
            choices = replace(choices, config=str(Path(choices.config).resolve()))
        return Job(self.prompt, choices, folder)

    @staticmethod
    def of_data(data: Mapping[str, Any]) -> Job:
        """The job of `as_data`."""
        choices = Choices(**{**data["choices"], "images": tuple(data["choices"]["images"])})
        return Job(data["prompt"], choices, Path(data["folder"]))


def read_jobs(file: str, root: Path, common: Choices | None = None) -> list[Job]:
    """The jobs of a file, with folders in `root`, all checked: nothing is begun if one is wrong.

    common: what the command line says for all of them; a job's own words come last.
    Raises UserError for a file that can't be read, and for whatever is wrong in a job: also where
    its folder holds a run with other settings.
    """
    path, common = Path(file), common or Choices()
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file; give prompts or YAML") from None
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); give a file of jobs") from None
    rows = _yaml_rows(file, text) if path.suffix in (".yaml", ".yml") else _lines(text)
    jobs = _with_folders([_job(row, common, f"{file}, job {i}") for i, row in rows], root)
    if not jobs:
        raise UserError(f"{file} holds no job; give a prompt a line")
    for job in jobs:
        try:
            config = plan(job.prompt, job.choices)
            if (job.folder / "config.yaml").is_file():  # a finished one would pass for it
                same_run(job.folder, with_absolute_paths(config))
        except UserError as error:
            raise UserError(f"{file}, '{job.name}': {error}") from None
    return jobs


def _lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, {"prompt": line.strip()}


def _yaml_rows(file: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UserError(f"{file} is not valid YAML{where}; mend it") from None
    if isinstance(tree, list):
        tree = {"jobs": tree}
    if not isinstance(tree, dict) or not isinstance(tree.get("jobs"), list):
        raise UserError(f"{file} must hold a list of jobs, or a mapping with `jobs`")
    if unknown := tree.keys() - {"jobs", "defaults"}:
        raise UserError(f"{file}: unknown key '{min(unknown)}'; it has jobs and defaults")
    defaults = _mapping(tree.get("defaults"), f"{file}: defaults")
    for number, row in enumerate(tree["jobs"], start=1):
        where = f"{file}, job {number}"
        own = {"prompt": row} if isinstance(row, str) else _mapping(row, where)
        settings = [_mapping(each.get("set"), f"{where}: set") for each in (defaults, own)]
        for combined in _grid({**defaults, **own, "set": {**settings[0], **settings[1]}}, where):
            yield number, combined


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a mapping, got {value!r}")
    return value


def _grid(row: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """A row of each combination of a grid's values, its suffix telling which."""
    grid = row.pop("grid", None) or {}
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        raise UserError(f"{where}: grid: expected a list of values by key, got {grid!r}")
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        own = {key: value for key, value in chosen.items() if key in _TEXTS or key == "seed"}
        settings = {key: value for key, value in chosen.items() if key not in own}
        told = "-".join(f"{key.rpartition('.')[2]}-{value}" for key, value in chosen.items())
        yield {**row, **own, "set": {**row["set"], **settings}, "_suffix": told}


def _job(row: Mapping[str, Any], common: Choices, where: str) -> tuple[str, Job]:
    """The name of a job's folder, and the job without one."""
    if unknown := [key for key in row if key not in (*_KEYS, "_suffix")]:
        hints = nearest(str(unknown[0]), _KEYS)
        hint = f"did you mean {hints[0]}? " if hints else ""
        raise UserError(f"{where}: unknown key '{unknown[0]}'; {hint}it takes {', '.join(_KEYS)}")
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where}: prompt: expected a text, got {prompt!r}")
    texts: dict[str, Any] = {}
    for key in _TEXTS:
        value = row.get(key)
        if value is not None:
            texts[key] = str(value)
    seed = row.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise UserError(f"{where}: seed: expected a whole number, got {seed!r}")
    settings = _mapping(row.get("set"), f"{where}: set")
    pairs = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    choices = replace(
        common,
        settings=[*common.settings, *pairs],
        seed=common.seed if seed is None else seed,
        loras=list(row.get("loras") or common.loras),
        **texts,
    )
    name = str(row.get("name") or slug(prompt))
    if suffix := row.get("_suffix"):
        name = f"{name}-{suffix}"
    return slug(name), Job(prompt.strip(), choices, Path())


def _with_folders(named: Sequence[tuple[str, Job]], root: Path) -> list[Job]:
    """The jobs with folders in `root`; equal names get numbers in the order of the file."""
    taken: dict[str, int] = {}
    jobs = []
    for name, job in named:
        taken[name] = taken.get(name, 0) + 1
        own = name if taken[name] == 1 else f"{name}-{taken[name]}"
        while own != name and own in (other for other, _ in named):
            taken[name] += 1
            own = f"{name}-{taken[name]}"
        folder = root / own
        jobs.append(Job(job.prompt, replace(job.choices, out=str(folder)), folder))
    return jobs

"""Beginning a run from what the command line says: checked first, created after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .config.models import RunConfig
from .config.reading import build_config
from .embedded.names import EXACT
from .errors import UserError
from .files import sole_writer, write_whole
from .guidance.choose import check_prompts, with_absolute_paths
from .runs.folder import Run, open_or_create, open_run
from .runs.stage import FINE, STAGES, Stage

SUITED: Mapping[str, str] = {
    EXACT: "exact",
    **dict.fromkeys(("sd15", "sd21-base", "sd21"), "magic3d-sd15"),
    "sdxl": "sdxl",
    **dict.fromkeys(("sd3", "sd35-medium", "sd35-large"), "sd3"),
    **dict.fromkeys(("flux-dev", "flux-schnell"), "flux"),
}
"""The configuration that is made for a prior's name, where it can guide both stages."""


@dataclass(frozen=True)
class Choices:
    """What a command line chooses beside the prompt; None or empty where it says nothing.

    config: a file's path or name. settings: `key=value` texts. prior, vram: for the stages that the
    command begins. loras: "PATH[:weight]" texts. out: the run's own folder.
    """

    config: str | None = None
    settings: Sequence[str] = ()
    prior: str | None = None
    seed: int | None = None
    device: str | None = None
    out: str | None = None
    loras: Sequence[str] = ()
    vram: str | None = None


def begin(prompt: str, choices: Choices | None = None) -> Run:
    """The run of a prompt: new, or the one that the same settings began before.

    Everything that can be wrong with the input is found out before a folder is made. Without a
    configuration, a prior that has one of its own (`SUITED`) takes that, others the default one.
    LoRAs belong to the fine stage's model, and to the coarse stage's where both have the same.
    """
    choices = choices or Choices()
    suited = SUITED.get(choices.prior or "") if choices.config is None else None
    pairs = _pairs(STAGES, choices)
    fixed = {"seed": choices.seed, "device": choices.device}
    built = build_config(prompt, choices.config or suited, pairs, **fixed)
    if choices.loras:
        same = built.coarse.prior.name == built.fine.prior.name
        pairs += _prior_pairs(STAGES if same else (FINE,), "loras", _listed(choices.loras))
        built = build_config(prompt, choices.config or suited, pairs, **fixed)
    run = _opened(built, choices.out)
    if suited is not None:
        from .runs.progress import say

        say(f"configuration: {suited}, which is made for {choices.prior}; --config chooses another")
    return run


def mesh_words(file: str, keep: bool, up: str | None, front: str | None) -> dict[str, object]:
    """What a command line says of a mesh, as settings; what its file hashes to isn't known yet."""
    return {"file": file, "digest": "0" * 32, "up": up, "front": front, "keep": keep}


def with_mesh(prompt: str, mesh: Mapping[str, object], choices: Choices) -> RunConfig:
    """The checked configuration of a run that begins with a mesh; see `config.mesh.MeshConfig`.

    Raises UserError for whatever the prompt, a setting or the prior gets wrong.
    """
    suited = SUITED.get(choices.prior or "") if choices.config is None else None
    pairs = _pairs((FINE,), choices)
    if mesh["keep"]:
        pairs = ["fine.paint_from=0", *pairs]
    if choices.loras:
        pairs = [*_prior_pairs((FINE,), "loras", _listed(choices.loras)), *pairs]
    fixed = {"seed": choices.seed, "device": choices.device, "mesh": dict(mesh)}
    config = build_config(prompt, choices.config or suited, pairs, **fixed)
    check_prompts(config, (FINE,))
    return config


def open_with_mesh(config: RunConfig, out: str | None) -> Run:
    """The run of a configuration with a mesh: new, or the one that the same settings began."""
    return _opened(config, out, stages=(FINE,))


def derive(folder: str, prompt: str | None = None, choices: Choices | None = None) -> Run:
    """The run in `folder`; if anything is to differ, a new run that starts from its coarse stage.

    Raises UserError if the coarse stage isn't finished, or if a setting would change it.
    """
    from .runs.coarse_result import read_result

    choices = choices or Choices()
    source = open_run(folder)
    if source.config.mesh is None:
        read_result(source)
    if prompt is None and choices == Choices():
        return source
    if source.config.mesh is not None:
        raise UserError(
            f"{source.folder} began with a mesh; begin a new run of it: maquette fine --mesh "
            f'{source.config.mesh.file} "{prompt or source.config.fine_prompt}"'
        )
    if prompt is not None and not prompt.strip():
        raise UserError("the new prompt is empty; say what the shape is to become")
    base = source.config.model_dump(mode="json")
    if prompt is not None:
        base["fine"] = {**base["fine"], "prompt": prompt.strip()}
    pairs = _pairs((FINE,), choices)
    if choices.loras:
        pairs = [*_prior_pairs((FINE,), "loras", _listed(choices.loras)), *pairs]
    config = build_config(source.config.prompt, None, pairs, base=base, device=choices.device)
    if _coarse_part(config) != _coarse_part(source.config):
        raise UserError(
            "`fine` keeps the coarse stage as it is; give settings under fine. or export. only"
        )
    target = _opened(config, choices.out, name=config.fine_prompt, stages=(FINE,))
    with sole_writer(target.folder):
        _adopt(source, target)
    return target


def _coarse_part(config: RunConfig) -> tuple[object, ...]:
    """The settings that the coarse stage and its result were made with."""
    read = config.handoff
    return config.coarse, config.seed, read.resolution, read.views, read.view_resolution


def _adopt(source: Run, target: Run) -> None:
    """Copy a finished coarse stage into a new run; the last checkpoint last, it says 'complete'."""
    from .runs.checkpoints import checkpoint_path
    from .runs.coarse_result import RESULT, handed_off

    if target.folder.resolve() == source.folder.resolve() or handed_off(target):
        return
    target.coarse.mkdir(exist_ok=True)
    last = checkpoint_path(source.coarse, source.config.coarse.steps).name
    for name in ("preview.png", RESULT, last):
        if (source.coarse / name).is_file():
            write_whole(target.coarse / name, (source.coarse / name).read_bytes())
    target.event("coarse stage adopted", source=str(source.folder))


def _opened(
    config: RunConfig,
    out: str | None,
    name: str | None = None,
    stages: Sequence[Stage] = STAGES,
) -> Run:
    check_prompts(config, stages)
    from .device import pick_device  # torch comes after all that can be told without it

    pick_device(config.device)
    return open_or_create(with_absolute_paths(config), out, name)


def _pairs(stages: Sequence[Stage], choices: Choices) -> list[str]:
    """The `key=value` texts that the options stand for, then those that were given."""
    pairs = _prior_pairs(stages, "name", choices.prior) + _prior_pairs(stages, "vram", choices.vram)
    return [*pairs, *choices.settings]


def _prior_pairs(stages: Sequence[Stage], key: str, value: str | None) -> list[str]:
    return [] if value is None else [f"{stage.name}.prior.{key}={value}" for stage in stages]


def _listed(texts: Sequence[str]) -> str:
    return json.dumps(list(texts))

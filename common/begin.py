"""Beginning a run from what the command line says: checked first, created after."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .config.models import RunConfig, build_config
from .device import pick_device
from .errors import UserError
from .files import sole_writer, write_whole
from .guidance.choose import STAGES, Stage, check_prompts, with_absolute_paths
from .priors.loading import SUITED
from .runs.checkpoints import checkpoint_path
from .runs.coarse_result import RESULT, handed_off, read_result
from .runs.folder import Run, open_or_create, open_run
from .runs.progress import say


def begin(
    prompt: str,
    config: str | None = None,
    settings: Sequence[str] | None = None,
    prior: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    out: str | None = None,
    loras: Sequence[str] | None = None,
    vram: str | None = None,
) -> Run:
    """The run of a prompt: new, or the one that the same settings began before.

    Everything that can be wrong with the input is found out before a folder is made. Without a
    `config`, a prior that has one of its own (`SUITED`) takes that, others the default one. LoRAs
    belong to the fine stage's model, and to the coarse stage's where both have the same.
    """
    suited = SUITED.get(prior or "") if config is None else None
    config = config or suited
    pairs = [*_prior_pairs(STAGES, "name", prior), *_prior_pairs(STAGES, "vram", vram)]
    pairs += settings or []
    built = build_config(prompt, config, pairs, seed=seed, device=device)
    if loras:
        same = built.coarse.prior.name == built.fine.prior.name
        pairs += _prior_pairs(STAGES if same else ("fine",), "loras", json.dumps(list(loras)))
        built = build_config(prompt, config, pairs, seed=seed, device=device)
    run = _opened(built, out)
    if suited is not None:
        say(f"configuration: {suited}, which is made for {prior}; --config chooses another")
    return run


def derive(
    folder: str,
    prompt: str | None = None,
    settings: Sequence[str] | None = None,
    prior: str | None = None,
    device: str | None = None,
    out: str | None = None,
    loras: Sequence[str] | None = None,
    vram: str | None = None,
) -> Run:
    """The run in `folder`; if anything is to differ, a new run that starts from its coarse stage.

    Raises UserError if the coarse stage isn't finished, or if a setting would change it.
    """
    source = open_run(folder)
    read_result(source)
    if not any((prompt is not None, settings, prior, device, out, loras, vram)):
        return source
    if prompt is not None and not prompt.strip():
        raise UserError("the new prompt is empty; say what the shape is to become")
    base = source.config.model_dump(mode="json")
    if prompt is not None:
        base["fine"] = {**base["fine"], "prompt": prompt.strip()}
    pairs = [*_prior_pairs(("fine",), "name", prior), *_prior_pairs(("fine",), "vram", vram)]
    pairs += _prior_pairs(("fine",), "loras", json.dumps(list(loras)) if loras else None)
    pairs += settings or []
    config = build_config(source.config.prompt, None, pairs, base=base, device=device)
    if _coarse_part(config) != _coarse_part(source.config):
        raise UserError(
            "`fine` keeps the coarse stage as it is; give settings under fine. or export. only"
        )
    target = _opened(config, out, name=config.fine_prompt, stages=("fine",))
    with sole_writer(target.folder):
        _adopt(source, target)
    return target


def _coarse_part(config: RunConfig) -> tuple[object, ...]:
    """The settings that the coarse stage and its result were made with."""
    read = config.handoff
    return config.coarse, config.seed, read.resolution, read.views, read.view_resolution


def _adopt(source: Run, target: Run) -> None:
    """Copy a finished coarse stage into a new run; the last checkpoint last, it says 'complete'."""
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
    pick_device(config.device)
    check_prompts(config, stages)
    return open_or_create(with_absolute_paths(config), out, name)


def _prior_pairs(stages: Sequence[Stage], key: str, value: str | None) -> list[str]:
    return [] if value is None else [f"{stage}.prior.{key}={value}" for stage in stages]

"""Beginning a run from what the command line says: checked first, created after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .config.image import ImageConfig
from .config.models import RunConfig
from .config.presets import preset_settings
from .config.reading import DEFAULT_CONFIG, Beneath, build_config, may_differ
from .embedded.names import EMBEDDED, EXACT, TOYBOX
from .errors import UserError
from .files import sole_writer, write_whole
from .guidance.choose import check_prompts, natural_fill, with_absolute_paths
from .guidance.suited import enlarged, suited_to, suited_to_one, told, untold
from .runs.folder import Run, open_or_create, open_run
from .runs.stage import FINE, STAGES, Stage

PAINT = "paint"
"""The configuration for a mesh that is painted by a prior of the toybox."""


@dataclass(frozen=True)
class Choices:
    """What a command line chooses beside the prompt; None or empty where it says nothing.

    config: a file's path or name. settings: `key=value` texts. prior, vram: for the stages that the
    command begins. loras: "PATH[:weight]" texts. out: the run's own folder. preset: a name of
    `config.presets.PRESETS`. threads: of the CPU, which `common.threads.settle` has put in place.
    images: files of pictures, elevation ("auto" or degrees) and fovy of their camera, depth,
    normal: maps of them.
    """

    config: str | None = None
    settings: Sequence[str] = ()
    prior: str | None = None
    seed: int | None = None
    device: str | None = None
    out: str | None = None
    loras: Sequence[str] = ()
    vram: str | None = None
    preset: str | None = None
    threads: int | None = None
    images: Sequence[str] = ()
    elevation: str | None = None
    fovy: float | None = None
    depth: str | None = None
    normal: str | None = None


def begin(prompt: str, choices: Choices | None = None) -> Run:
    """The run of a prompt, a picture, or both: new, or the one that the same settings began before.

    Everything that can be wrong with the input is found out before a folder is made. Without a
    configuration, and beneath a file that names no `base`, a prior takes the one that is made for
    models of its family (`suited_to`); what was chosen is said. LoRAs belong to the fine stage's
    model, and to the coarse stage's where both have the same.
    """
    choices = choices or Choices()
    built, suited = _built(prompt, choices)
    run = _opened(built, choices)
    designed = suited is not None or not may_differ(choices.config)
    _tell(built, suited, None if designed else enlarged(built), untold(built))
    return run


def _tell(config: RunConfig, suited: Beneath | None, *more: str | None) -> None:
    """Say which configuration was chosen, if the prior chose one, and what else is to be said."""
    from .runs.progress import say

    for line in (None if suited is None else told(suited, config), *more):
        if line is not None:
            say(line)


def plan(prompt: str, choices: Choices | None = None) -> RunConfig:
    """The configuration of the run that `begin` would make, checked alike; nothing is made."""
    config, _ = _built(prompt, choices or Choices())
    if config.image is not None and not config.image.digest:
        config = config.model_copy(update={"image": _placed(config, config.image)})
    check_prompts(config, STAGES)
    return config


def _built(prompt: str, choices: Choices) -> tuple[RunConfig, Beneath | None]:
    """The configuration that is chosen, and the shipped one it builds on, if the prior chose it."""
    pairs = _pairs(STAGES, choices)
    file, suited = choices.config, None
    fixed: dict[str, Any] = {"seed": choices.seed, "device": choices.device}
    fixed["image"] = _image(choices)
    built = build_config(prompt, file, pairs, **fixed)
    if may_differ(file):
        suited = _suited(built, choices)
    fixed["beneath"] = suited or DEFAULT_CONFIG
    if choices.preset is not None:
        fixed["base"] = preset_settings(choices.preset, prompt, file, fixed["beneath"])
    built = build_config(prompt, file, pairs, **fixed)
    if choices.loras:
        same = built.coarse.prior.name == built.fine.prior.name
        pairs += _prior_pairs(STAGES if same else (FINE,), "loras", _listed(choices.loras))
        built = build_config(prompt, file, pairs, **fixed)
    return built, suited


def _suited(built: RunConfig, choices: Choices) -> Beneath | None:
    """The shipped configurations that suit the priors that were chosen; None is the default one."""
    coarse, fine = built.coarse.prior, built.fine.prior
    if choices.prior is None and {coarse.name, fine.name} <= {EXACT, TOYBOX, *EMBEDDED}:
        return None  # the default configuration is made for these, and says so itself
    return suited_to(coarse, fine)


def mesh_words(file: str, keep: bool, up: str | None, front: str | None) -> dict[str, object]:
    """What a command line says of a mesh, as settings; what its file hashes to isn't known yet."""
    return {"file": file, "digest": "0" * 32, "up": up, "front": front, "keep": keep}


def with_mesh(prompt: str, mesh: Mapping[str, object], choices: Choices) -> RunConfig:
    """The checked configuration of a run that begins with a mesh; see `config.mesh.MeshConfig`.

    Raises UserError for whatever the prompt, a setting or the prior gets wrong.
    """
    pairs = _pairs((FINE,), choices)
    if mesh["keep"]:
        pairs = ["fine.paint_from=0", *pairs]
    if choices.loras:
        pairs = [*_prior_pairs((FINE,), "loras", _listed(choices.loras)), *pairs]
    fixed: dict[str, Any] = {"seed": choices.seed, "device": choices.device, "mesh": dict(mesh)}
    file, beneath = choices.config, PAINT if mesh["keep"] else DEFAULT_CONFIG
    config = build_config(prompt, file, pairs, **fixed)
    if may_differ(file) and (suited := _suited(config, choices)) is not None:
        beneath = suited
    if choices.preset is not None:
        fixed["base"] = preset_settings(choices.preset, prompt, file, beneath)
    config = build_config(prompt, file, pairs, beneath=beneath, **fixed)
    check_prompts(config, (FINE,))
    return config


def open_with_mesh(config: RunConfig, choices: Choices) -> Run:
    """The run of a configuration with a mesh: new, or the one that the same settings began."""
    run = _opened(config, choices, stages=(FINE,))
    suited = _suited(config, choices) if may_differ(choices.config) else None
    _tell(config, suited)
    return run


def derive(folder: str, prompt: str | None = None, choices: Choices | None = None) -> Run:
    """The run in `folder`; if anything is to differ, a new run that starts from its coarse stage.

    Raises UserError if the coarse stage isn't finished, or if a setting would change it.
    """
    from .runs.coarse_result import read_result

    choices = choices or Choices()
    source = open_run(folder)
    if source.config.mesh is None:
        read_result(source)
    if prompt is None and choices == Choices(threads=choices.threads):
        return source
    if source.config.mesh is not None:
        raise UserError(
            f"{source.folder} began with a mesh; begin a new run of it: maquette fine --mesh "
            f'{source.config.mesh.file} "{prompt or source.config.fine_prompt}"'
        )
    if prompt is not None and not prompt.strip():
        raise UserError("the new prompt is empty; say what the shape is to become")
    base, suited = _fine_base(source.config, choices)
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
    target = _opened(config, choices, config.title, (FINE,), source)
    if suited is not None:
        _tell(config, (suited, suited))
    with sole_writer(target.folder):
        _adopt(source, target)
    return target


def _fine_base(config: RunConfig, choices: Choices) -> tuple[dict[str, Any], str | None]:
    """A run's settings for another fine stage, and the configuration of a prior of another family.

    A prior of the same family goes on with the run's own settings.
    """
    base = config.model_dump(mode="json")
    prior = build_config(config.prompt, None, _pairs((FINE,), choices), base=base).fine.prior
    suited = suited_to_one(prior)
    if prior.name == config.fine.prior.name or suited == suited_to_one(config.fine.prior):
        return base, None
    fine = build_config(config.prompt, suited, image=base["image"]).fine.model_dump(mode="json")
    return {**base, "fine": {**fine, "prompt": base["fine"]["prompt"]}}, suited


def _coarse_part(config: RunConfig) -> tuple[object, ...]:
    """The settings that the coarse stage and its result were made with."""
    read = config.handoff
    return config.coarse, config.seed, read.resolution, read.views, read.view_resolution


def _adopt(source: Run, target: Run) -> None:
    """Copy a finished coarse stage into a new run; the last checkpoint last, it says 'complete'."""
    from .runs.checkpoints import checkpoint_path
    from .runs.coarse_result import RESULT, handed_off
    from .runs.origin import FILE

    if target.folder.resolve() == source.folder.resolve() or handed_off(target):
        return
    if source.config.image is not None:
        from .runs.picture import adopt

        adopt(source, target)
    target.coarse.mkdir(exist_ok=True)
    last = checkpoint_path(source.coarse, source.config.coarse.steps).name
    for name in ("preview.png", FILE, RESULT, last):
        if (source.coarse / name).is_file():
            write_whole(target.coarse / name, (source.coarse / name).read_bytes())
    target.event("coarse stage adopted", source=str(source.folder))


def _opened(
    config: RunConfig,
    choices: Choices,
    name: str | None = None,
    stages: Sequence[Stage] = STAGES,
    source: Run | None = None,
) -> Run:
    """The run of a configuration; source: one whose picture is taken over."""
    _check_out(choices.out)
    if config.image is not None and not config.image.digest:
        config = config.model_copy(update={"image": _placed(config, config.image)})
    check_prompts(config, stages)
    from .device import pick_device, threads, use_threads  # torch, after all told without it

    pick_device(config.device)
    prepared = None
    config = with_absolute_paths(config)
    if config.image is not None and source is None:
        from .runs import picture

        prepared = picture.prepare(config.image)
    name = name or config.title
    run = open_or_create(config, choices.out, name, threads=threads())
    if prepared is not None:
        picture.keep(run, prepared)
    if choices.threads is None and run.threads is not None:
        use_threads(run.threads)  # of a run that began before
    return run


def _check_out(out: str | None) -> None:
    if out is not None and not out.strip():
        raise UserError("--out is empty; give the folder that the run is to have")


def _image(choices: Choices) -> dict[str, object]:
    """The settings of the picture that the options stand for. Raises UserError for two pictures."""
    if len(choices.images) > 1:
        raise UserError(
            f"--image was given {len(choices.images)} times; a run takes one picture of its object"
        )
    elevation = choices.elevation
    return {
        "path": choices.images[0] if choices.images else None,
        "elevation": elevation if elevation in (None, "auto") else _degrees(elevation),
        "fovy": choices.fovy,
        "depth": choices.depth,
        "normal": choices.normal,
    }


def _degrees(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--elevation takes degrees or auto, got {text!r}") from None


def _placed(config: RunConfig, image: ImageConfig) -> ImageConfig:
    """The picture with what its file and the prior decide filled in."""
    from .runs.picture import with_digest

    fill = natural_fill(config.coarse) if image.fill is None else image.fill
    return with_digest(image.model_copy(update={"fill": fill}))


def _pairs(stages: Sequence[Stage], choices: Choices) -> list[str]:
    """The `key=value` texts that the options stand for, then those that were given."""
    pairs = _prior_pairs(stages, "name", choices.prior) + _prior_pairs(stages, "vram", choices.vram)
    return [*pairs, *choices.settings]


def _prior_pairs(stages: Sequence[Stage], key: str, value: str | None) -> list[str]:
    return [] if value is None else [f"{stage.name}.prior.{key}={value}" for stage in stages]


def _listed(texts: Sequence[str]) -> str:
    return json.dumps(list(texts))

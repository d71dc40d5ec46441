"""Training the embedded prior: what `maquette train-prior pixel|vae|latent` does.

The pixel prior sees 64 px and guides the coarse stage. The latent one guides the fine stage at
512 px, behind an autoencoder that is trained first. `docs/prior.md` tells the rest.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...device import pick_device
from ...errors import UserError
from ...files import expanded, sole_writer
from ...priors.pretrained import quiet_libraries
from ...runs.folder import run_around
from ...runs.loop import deterministic
from ..names import EMBEDDED, VERSION_FILE
from ..version import check_version, write_version
from .settings import TrainConfig, save_settings, settings_for

OWN_VAE = "vae"
VAE_CONFIG = "vae/config.json"


def train_prior(
    kind: str,
    out: str | None = None,
    minutes: float | None = None,
    images: int | None = None,
    device: str | None = None,
    seed: int | None = None,
    vae: str | None = None,
    begin: str | None = None,
    settings: Sequence[str] | None = None,
) -> Path:
    """Train one of the networks in a folder, or go on with it; returns its diffusers folder.

    kind: pixel, vae or latent. out: the training's folder; `runs/prior-KIND` by default.
    minutes, images: the budget, one of the two; what was trained before counts.
    vae: for latent, the autoencoder's diffusers folder, the folder of its training, or a latent
        prior whose autoencoder is taken.
    begin: for a new training of pixel or latent, a diffusers folder (or the folder of a training)
        whose weights it begins with, where their shapes are the same: what a pixel prior knows of
        the toybox serves a latent one, and what one for smaller images knows, a larger one.
    settings: `key=value` texts; see `TrainConfig`. Raises UserError for anything that can't be.
    """
    if out is not None and not out.strip():
        raise UserError("--out is empty; give the folder that the training is to have")
    folder = expanded(f"runs/prior-{kind}" if out is None else out, "--out")
    if (around := run_around(folder)) is not None:
        raise UserError(f"--out: {around} is the folder of a run; give a training another")
    given: dict[str, Any] = {"device": device, "seed": seed}
    config = settings_for(kind, folder, settings or (), minutes=minutes, images=images, **given)
    if vae is not None and kind != "latent":
        raise UserError(f"--vae is for latent, not for {kind}")
    where = pick_device(config.device)
    given_vae = _given_autoencoder(folder, vae) if config.kind == "latent" else None
    if begin is not None and config.kind == "vae":
        raise UserError("--begin is for pixel and latent, not for vae")
    source = None if begin is None else _model_of(begin, "unet/config.json", "--begin")
    with sole_writer(folder):
        compressor = _begin(config, folder, given_vae, where)
        _run(config, folder, compressor, source, where)
    return folder / "model"


def blend_priors(first: str, second: str, share: float, out: str) -> Path:
    """Average the weights of two trainings' denoisers; returns the diffusers folder.

    first, second: diffusers folders or folders of trainings, the second begun with the first.
    share: of the second, in [0, 1]; see `blend.blend`. Raises UserError for anything that can't be.
    """
    with quiet_libraries():
        from .blend import blend

    folder = expanded(out, "--out")
    sources = [_model_of(given, "unet/config.json", "blend-priors") for given in (first, second)]
    blend(sources[0], sources[1], share, folder)
    return folder


def _begin(config: TrainConfig, folder: Path, vae: Path | None, device: torch.device) -> Any:
    """Make the folder of a training, and its settings; gives the autoencoder of a latent one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        compressor = _autoencoder(folder, vae, device) if config.kind == "latent" else None
        save_settings(config, folder)
    except OSError as error:
        raise UserError(
            f"{folder} can't be written ({error.strerror}); give another --out"
        ) from None
    return compressor


def _run(
    config: TrainConfig, folder: Path, vae: Any | None, begin: Path | None, device: torch.device
) -> None:
    with quiet_libraries():
        from .autoencoder import AutoencoderTask
        from .diffusion import DiffusionTask
        from .loop import Training, train

    before = torch.are_deterministic_algorithms_enabled()
    deterministic(device)
    torch.manual_seed(config.seed)
    try:
        task = (
            AutoencoderTask(config, device)
            if config.kind == "vae"
            else DiffusionTask(config, vae, device)
        )
        if isinstance(task, DiffusionTask):
            if begin is not None:
                task.begin_with(begin)
            if config.teacher is not None:
                task.learn_from(_model_of(config.teacher, "unet/config.json", "teacher"))
        train(Training(task, config, folder, device), _workers(config, device))
    finally:
        torch.use_deterministic_algorithms(before)


def _workers(config: TrainConfig, device: torch.device) -> int:
    """How many processes render: a GPU must not wait, a CPU has no core to spare."""
    if config.workers is not None:
        return config.workers
    return 0 if device.type == "cpu" else max(1, (os.cpu_count() or 2) - 1)


def _given_autoencoder(folder: Path, given: str | None) -> Path | None:
    """The autoencoder that `--vae` means; None where the training goes on with its own.

    Raises UserError if there is neither, or if it is of another toybox.
    """
    if given is not None:
        pipeline = expanded(given, "--vae")
        if (pipeline / VAE_CONFIG).is_file():
            check_version(pipeline)
            return pipeline / OWN_VAE
        source = _model_of(given, "config.json", "--vae")
        check_version(source)
        return source
    if not (folder / OWN_VAE).is_dir():
        raise UserError(
            "the latent prior learns behind an autoencoder: train one with `maquette train-prior"
            " vae`, and give its folder with --vae"
        )
    return None


def _autoencoder(folder: Path, source: Path | None, device: torch.device) -> Any:
    """The autoencoder of a latent training: its own copy, made of `source` when it begins.

    Raises UserError if that is of another toybox, or `source` is not the one it began with.
    """
    own = folder / OWN_VAE
    if source is not None:
        _adopt(source, own)
    check_version(own)
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    net: Any = AutoencoderKL.from_pretrained(own, use_safetensors=True)
    return net.to(device).requires_grad_(False).eval()


def _model_of(given: str, mark: str, option: str) -> Path:
    """The diffusers folder that is meant: itself, or that of a training; `mark` lies in it."""
    source = EMBEDDED[given] if given in EMBEDDED else expanded(given, option)
    for place in (source / "model", source):
        if (place / mark).is_file():
            return place
    raise UserError(
        f"{option}: {source} holds no {mark}; give a folder that `maquette train-prior` made"
    )


def _adopt(source: Path, own: Path) -> None:
    """Copy an autoencoder into the training, which is bound to it from then on."""
    if own.is_dir():
        theirs, ours = (
            {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
            for folder in (source, own)
        )
        if theirs != ours:
            raise UserError(
                f"this training began with another autoencoder than {source}; leave --vae out to go"
                " on with it, or give another --out to begin anew"
            )
        return
    part = own.with_name(".vae.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    if not (part / VERSION_FILE).is_file():  # that of a latent prior, whose own file answers for it
        write_version(part, _training_of(source.parent))
    os.replace(part, own)


def _training_of(folder: Path) -> dict[str, Any]:
    """What a folder of weights says of how they were made."""
    return json.loads((folder / VERSION_FILE).read_text("utf-8"))["training"]

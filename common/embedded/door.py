"""The door for all models of diffusers' kind, those included that were trained on the toybox.

`priors.loading` knows nothing of the toybox; what is special about a folder of its weights is found
out and handed in here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.priors import PriorConfig, Space, parse_lora
from ..errors import UserError
from ..files import digest_of
from ..priors.location import ALIASES, Location, locate, locate_folder
from .names import EMBEDDED, EXACT, for_space, is_toybox

if TYPE_CHECKING:
    import torch

    from ..priors.pretrained import PretrainedPrior


def find(prior: PriorConfig) -> Location:
    """Where a model is; imports no torch. Raises UserError if it can't be found."""
    if prior.name not in EMBEDDED:
        return locate(prior, known=EMBEDDED)
    folder = EMBEDDED[prior.name]
    if not is_toybox(folder):
        raise UserError(
            f"no weights of {prior.name} come with this version; use --prior exact, or train them"
            " with `maquette train-prior` and give their folder"
        )
    return locate_folder(folder, prior.name)


def knows_toybox(location: Location) -> bool:
    """Whether a model's weights were trained on the toybox."""
    return location.folder is not None and is_toybox(location.folder)


_kept: dict[str, PretrainedPrior] | None = None
MOST_KEPT = 2
"""A prior a stage."""


def keep_priors() -> None:
    """From here on this process keeps what it loads, with text encoders, for the next run."""
    global _kept
    _kept = {}


def keeping() -> bool:
    """Whether this process keeps its priors."""
    return _kept is not None


def load_or_kept(
    prior: PriorConfig, device: torch.device | str = "cpu", text: bool = True
) -> PretrainedPrior:
    """`load`, or what was kept of a load of the same model before; what is kept is not changed."""
    if _kept is None:
        return load(prior, device, text)
    key = f"{device} {prior.model_dump_json()}"
    if key not in _kept:
        while len(_kept) >= MOST_KEPT:
            _kept.pop(next(iter(_kept)))  # its memory is free before the next one is loaded
        _kept[key] = load(prior, device, text=True)
    return _kept[key]


def prior_digest(prior: PriorConfig, space: Space) -> str | None:
    """A digest of a prior's weights, and of what is added to them; None where it can't be told.

    The exact prior has none; a model on the hub is known by its commit, which the stage keeps.
    """
    if prior.name == EXACT:
        return None
    name = for_space(prior, space).name
    place = EMBEDDED[name] if name in EMBEDDED else Path(name).expanduser()
    added = [parse_lora(text)[0] for text in prior.loras]
    places = [place, *(Path(p).expanduser() for p in (*added, *prior.textual_inversions))]
    total = hashlib.blake2b(digest_size=16)
    try:
        if name in ALIASES or not place.exists():
            return None
        for at in places:
            files = sorted(at.rglob("*.safetensors")) if at.is_dir() else [at]
            for file in files:
                total.update(f"{file.name} {digest_of(file)}\n".encode())
    except OSError:
        return None
    return total.hexdigest()


def load(
    prior: PriorConfig, device: torch.device | str = "cpu", text: bool = True
) -> PretrainedPrior:
    """Load any model as a prior; see `priors.loading.load_prior`.

    Weights of the toybox are checked against it, read prompts in its words, and compute as they
    were trained.
    """
    from ..priors.loading import Special, load_prior
    from .version import check_version
    from .vocabulary import wording

    location, special = find(prior), None
    if location.folder is not None and is_toybox(location.folder):
        check_version(location.folder)
        special = Special(wording=wording, mixed=True)
    return load_prior(prior, device, text, location, special)

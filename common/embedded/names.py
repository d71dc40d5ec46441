"""The names of the toybox's own priors, and the folders of those that come with the program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..config.priors import PriorConfig, Space

EXACT, TOYBOX = "exact", "toybox"
EXACT_RESOLUTIONS: Mapping[Space, int] = {"pixel": 64, "latent": 512}
"""Pixels that the exact prior sees, height and width."""
VERSION_FILE = "toybox.json"
"""Lies beside weights that were trained on the toybox; see `version`."""
WEIGHTS = Path(__file__).parent / "weights"
EMBEDDED: Mapping[str, Path] = {
    f"{TOYBOX}-{space}": WEIGHTS / space for space in ("pixel", "latent")
}
"""The models that come with the program."""


def is_toybox(folder: Path) -> bool:
    """Whether a folder holds weights that were trained on the toybox."""
    return (folder / VERSION_FILE).is_file()


def model_folder(source: str) -> Path:
    """The folder that a name of `EMBEDDED` or a path stands for."""
    return EMBEDDED[source] if source in EMBEDDED else Path(source).expanduser()


def for_space(prior: PriorConfig, space: Space) -> PriorConfig:
    """The prior that a stage takes where a name offers one for each space, as `toybox` does."""
    if prior.name != TOYBOX:
        return prior
    return prior.model_copy(update={"name": f"{TOYBOX}-{space}"})

"""The stages of a run that judge views: what is the same of them, told once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..config.models import CoarseConfig, FineConfig, RunConfig
from ..config.priors import Space

if TYPE_CHECKING:
    from .folder import Run

StageName = Literal["coarse", "fine"]
AnyStageConfig = CoarseConfig | FineConfig


@dataclass(frozen=True)
class Stage:
    """One of the two stages.

    space: what it takes where the name of a prior offers both. large: whether it renders what only
    a latent model, or a pixel model of that size, sees whole.
    """

    name: StageName
    space: Space
    large: bool

    def config(self, run: RunConfig) -> AnyStageConfig:
        """The stage's own settings."""
        return getattr(run, self.name)

    def prompt(self, run: RunConfig) -> str:
        """The prompt that the stage follows."""
        return run.prompt if self.name == "coarse" else run.fine_prompt

    def folder(self, run: Run) -> Path:
        """The stage's own folder."""
        return run.folder / self.name


COARSE = Stage("coarse", "pixel", large=False)
FINE = Stage("fine", "latent", large=True)
STAGES = (COARSE, FINE)

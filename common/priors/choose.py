"""From a configuration to a prior: the one place that knows every family."""

from __future__ import annotations

from typing import Literal

import torch

from common.config import PriorConfig, RunConfig
from common.errors import UserError
from common.priors.base import Prior

EXACT = "exact"


def load_prior(
    config: PriorConfig, space: Literal["pixel", "latent"], device: torch.device
) -> Prior:
    """The prior that guides a stage; `space` is what the stage wants where a name offers both."""
    if config.name == EXACT:
        from common.priors.exact import ExactPrior

        return ExactPrior(space, config.instances, device)
    raise UserError(f"no prior '{config.name}'; this version has: {EXACT}")


def check_prompts(config: RunConfig) -> None:
    """Raise UserError now, not after minutes, for a prompt or a prior that a stage cannot take."""
    for prior, prompt in (
        (config.coarse.prior, config.prompt),
        (config.fine.prior, config.fine_prompt),
    ):
        if prior.name == EXACT:
            from common.toybox.grammar import parse

            parse(prompt)
        else:
            raise UserError(f"no prior '{prior.name}'; this version has: {EXACT}")

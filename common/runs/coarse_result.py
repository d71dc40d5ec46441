"""What the coarse stage leaves for the fine one: a file, so that neither needs the other's code.

`coarse/result.safetensors` holds
    density  float32 [N, N, N]   at the lattice points of the cube [-1, 1]^3, index order x, y, z
    images   uint8 [V, H, H, 3]  lit views before white from `cameras.sphere_views(V)`
    opacity  float32 [V, H, H]   their opacities
    background  float32 [3]      the mean colour that the NeRF was trained before
    field/*                      the hash field whose outputs are density logit and albedo logits
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .checkpoints import (DamagedCheckpointError, checkpoint_path, read_tensors, under_prefix)
from ..errors import UserError
from .folder import Run

RESULT = "result.safetensors"


@dataclass(frozen=True)
class CoarseResult:
    """The coarse stage's file, read."""

    density: Tensor
    images: Tensor
    opacity: Tensor
    background: Tensor
    field: dict[str, Tensor]


def handed_off(run: Run) -> bool:
    """Whether a run's coarse stage is complete and its result is whole."""
    try:
        read_tensors(run.coarse / RESULT)
    except (DamagedCheckpointError, UserError):
        return False
    return checkpoint_path(run.coarse, run.config.coarse.steps).is_file()


def read_result(run: Run) -> CoarseResult:
    """The result of a finished coarse stage; UserError if there is none or it is damaged."""
    path = run.coarse / RESULT
    if not path.is_file():
        raise UserError(
            f"the coarse stage of {run.folder} isn't finished; finish it first: "
            f"maquette resume {run.folder}"
        )
    try:
        tensors = read_tensors(path)
    except DamagedCheckpointError as error:
        raise UserError(
            f"{path} is damaged: {error}; make it again: maquette resume {run.folder}"
        ) from None
    return CoarseResult(
        density=tensors["density"],
        images=tensors["images"],
        opacity=tensors["opacity"],
        background=tensors["background"],
        field=under_prefix("field", tensors),
    )

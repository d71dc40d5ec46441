"""What the coarse stage leaves for the fine one: a file, so that neither needs the other's code.

Whatever kind of scene the coarse stage grew, `coarse/result.safetensors` holds
    inside   float32 [N, N, N]   how much inside the object the lattice points of the cube
                                 [-1, 1]^3 are, index order x, y, z: any quantity, at least 0, that
                                 grows inwards, such as a NeRF's density
    levels   float32 [2]         between which values of it the surface is looked for
    images   uint8 [V, H, H, 3]  lit views before white from `cameras.sphere_views(V)`
    opacity  float32 [V, H, H]   their opacities
    background  float32 [3]      the mean colour that the scene was trained before
    color/*, color_shape         a hash field of three outputs, logits of the albedo, and its shape
A scene that knows its signed distance (world units, negative inside) gives `distance` in place of
`inside` and `levels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..fields.field import HashField
from .checkpoints import (
    DamagedCheckpointError,
    checkpoint_path,
    fitting,
    read_tensors,
    stored_digest,
    under_prefix,
    with_prefix,
    write_tensors,
)
from .folder import CLEANED, Run
from .origin import Origin, default_settings, outputs_whole, stage_settings

RESULT, PREVIEW = "result.safetensors", "preview.png"


@dataclass(frozen=True)
class CoarseResult:
    """The coarse stage's file, read; see the module. color: albedo logits of world points."""

    images: Tensor
    opacity: Tensor
    background: Tensor
    color: HashField
    inside: Tensor | None = None
    levels: tuple[float, float] = (0.0, 0.0)
    distance: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.inside is None) == (self.distance is None):
            raise ValueError("inside, distance: expected one of the two")


def color_tensors(color: HashField) -> dict[str, Tensor]:
    """A colour field that carries its own shape, as tensors of a file."""
    return {"color_shape": color.shape(), **with_prefix("color", color.state_dict())}


def color_from(tensors: dict[str, Tensor]) -> HashField:
    """The colour field of `color_tensors`, on the CPU. Draws no random numbers."""
    with torch.random.fork_rng([]):
        field = HashField.blank(tensors["color_shape"])
    field.load_state_dict(under_prefix("color", tensors))
    return field


def write_result(run: Run, result: CoarseResult) -> None:
    """Write the file, whole or not at all."""
    tensors = {
        "images": result.images,
        "opacity": result.opacity,
        "background": result.background,
        **color_tensors(result.color),
    }
    if result.inside is not None:
        tensors |= {"inside": result.inside, "levels": torch.tensor(result.levels)}
    if result.distance is not None:
        tensors["distance"] = result.distance
    write_tensors(run.coarse / RESULT, tensors)


def is_cleaned(run: Run) -> bool:
    """Whether a finished run keeps only what an export needs."""
    return (run.folder / CLEANED).is_file()


def handed_off(run: Run) -> bool:
    """Whether a run's coarse stage is complete and its result is whole, or dropped on purpose."""
    if is_cleaned(run):
        return True
    try:
        read_tensors(run.coarse / RESULT)
    except (DamagedCheckpointError, UserError):
        return False
    last = checkpoint_path(run.coarse, run.config.coarse.steps)
    return last.is_file() and outputs_whole(run.coarse)


def coarse_origin(run: Run, prior: str | None) -> Origin:
    """What the coarse stage and its result are made of; prior: a digest, if it can be told."""
    read = run.config.handoff
    settings = stage_settings(
        run.config.coarse,
        prompt=run.config.prompt,
        seed=run.config.seed,
        handoff={n: getattr(read, n) for n in ("resolution", "views", "view_resolution")},
    )
    given = {} if prior is None else {"the prior": prior}
    return Origin(settings, given, default_settings(run.config.coarse))


def fine_origin(run: Run, prior: str | None) -> Origin:
    """What the fine stage is made of: its settings, its prior, and the coarse stage's result."""
    settings = stage_settings(
        run.config.fine,
        prompt=run.config.fine_prompt,
        seed=run.config.seed,
        handoff=run.config.handoff.model_dump(mode="json"),
    )
    if run.config.mesh is None:
        given = {"the coarse stage's result": stored_digest(run.coarse / RESULT)}
    else:
        given = {"the mesh": run.config.mesh.digest}
    if prior is not None:
        given["the prior"] = prior
    return Origin(settings, given, default_settings(run.config.fine))


def read_result(run: Run) -> CoarseResult:
    """The result of a finished coarse stage; UserError if there is none or it is damaged."""
    path = run.coarse / RESULT
    if not path.is_file():
        if is_cleaned(run):
            raise UserError(
                f"{run.folder} was cleaned: its coarse stage is gone, and it can only be exported; "
                "to refine it anew, run its prompt again in a new folder"
            )
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
    with fitting(path):
        low, high = tensors["levels"].tolist() if "levels" in tensors else (0.0, 0.0)
        return CoarseResult(
            images=tensors["images"],
            opacity=tensors["opacity"],
            background=tensors["background"],
            color=color_from(tensors),
            inside=tensors.get("inside"),
            levels=(low, high),
            distance=tensors.get("distance"),
        )

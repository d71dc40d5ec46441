"""Views of one object that are denoised together: their rows attend to each other.

In a U-Net's self-attention the queries of a view meet the keys and values of all views of its
group, as if they were one large picture. Networks that were trained so (MVDream, Shi 2023) keep one
object in all of them; a network that was not shares its taste at least (StyleAligned, Hertz 2024;
Text2Video-Zero, Khachatryan 2023), at no training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import UserError


class JointAttention:
    """An attention processor: the rows of a run of `group` are one long sequence."""

    def __init__(self, group: int) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.group, self.plain = group, AttnProcessor2_0()

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        rows, length, width = hidden_states.shape
        together = hidden_states.reshape(rows // self.group, self.group * length, width)
        plain: Any = self.plain
        return plain(attn, together, None, attention_mask, temb).reshape(rows, length, width)


def see_each_other(unet: Any, group: int) -> list[JointAttention]:
    """Let the rows of a run attend to each other in a U-Net's self-attention, and nowhere else."""
    joint = {
        name: JointAttention(group)
        for name in unet.attn_processors
        if name.endswith("attn1.processor")
    }
    unet.set_attn_processor({**unet.attn_processors, **joint})
    return list(joint.values())


def join_views(prior: Any, group: int) -> None:
    """Make a U-Net prior denoise `group` views together, evenly around the object.

    prior: a `PretrainedPrior`. Raises UserError for one that has no U-Net with self-attention of
    its own kind, or that denoises views together already.
    """
    if prior.group > 1:
        raise UserError(
            f"joint_views: {prior.source} denoises {prior.group} views together by itself; leave "
            "it at 1"
        )
    kept = getattr(prior.denoiser, "attn_processors", {})
    if prior.family not in ("sd", "sdxl", "pixel") or not any("attn1" in name for name in kept):
        raise UserError(
            f"joint_views: {prior.source} has no U-Net in which pictures attend to themselves; "
            "leave it at 1"
        )
    prior.group, prior.joint = group, see_each_other(prior.denoiser, group)


@contextmanager
def apart(prior: Any) -> Iterator[None]:
    """Meanwhile a prior that `join_views` made denoises each view by itself; others as ever."""
    joint: list[JointAttention] = getattr(prior, "joint", [])
    together = prior.group
    if joint:
        prior.group = 1
        for processor in joint:
            processor.group = 1
    try:
        yield
    finally:
        prior.group = together
        for processor in joint:
            processor.group = together

"""Several processes at one run: each renders and judges its share of a step's views.

All of them hold the same scene and draw the same random numbers, for all views; each takes the rows
of its own views. Gradients are averaged, so N processes take the steps that one with all the views
would. The first one writes and speaks. torch is imported where there is more than one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those at the run.

    index: its number, of `count`. local: its number among those on this machine, and of its card.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.index == 0


_now = Ranks()


def now() -> Ranks:
    """This process among those at the run."""
    return _now


def join(device: str | None = None) -> Ranks:
    """Join the processes that torchrun, or `--gpus`, has begun; alone if there are no others.

    device: the run's setting; on the CPU the processes talk through gloo, on GPUs through NCCL.
    """
    global _now
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2 or _now.count == count:
        return _now
    import torch
    from torch import distributed

    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    on_cards = device != "cpu" and torch.cuda.is_available()
    if on_cards:
        torch.cuda.set_device(local % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_cards else "gloo")
    _now = Ranks(distributed.get_rank(), count, local)
    return _now


def leave() -> None:
    """Part from the others."""
    global _now
    if _now.count > 1:
        from torch import distributed

        distributed.destroy_process_group()
        _now = Ranks()


def lost(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone."""
    text = f"{type(error).__name__} {error}"
    return _now.count > 1 and any(word in text for word in ("gloo", "NCCL", "Dist", "Connection"))


def own_device(device: torch.device) -> torch.device:
    """This process's card, where a run is on cards and has several."""
    if _now.count == 1 or device.type != "cuda":
        return device
    import torch

    return torch.device("cuda", _now.local % torch.cuda.device_count())


def told(value: T) -> T:
    """What the first process says; the others' value is not looked at."""
    if _now.count == 1:
        return value
    from torch import distributed

    said = [value]
    distributed.broadcast_object_list(said, src=0)
    return said[0]


def wait() -> None:
    """Until all processes have come here."""
    if _now.count > 1:
        import torch
        from torch import distributed

        distributed.all_reduce(torch.zeros(1))


def rows(count: int) -> slice:
    """This process's rows of `count` views; raises ValueError if they can't be shared evenly."""
    if count % _now.count:
        raise ValueError(f"count: expected a multiple of {_now.count}, got {count}")
    share = count // _now.count
    return slice(_now.index * share, (_now.index + 1) * share)


def drawn(draw: Callable[..., Tensor], own: int, *rest: int, **options: Any) -> Tensor:
    """`draw(own, *rest, **options)`, drawn for all processes' rows, of which these are one's own.

    draw: such as `torch.rand`. So the random state stays the same everywhere, and the rows are
    those that one process with all views would draw.
    """
    every = draw(own * _now.count, *rest, **options)
    return every[_now.index * own : (_now.index + 1) * own]


def share_of(count: int | Tensor, device: torch.device) -> float | Tensor:
    """What a mean over `count` things here weighs in the mean over all processes' things.

    The mean of the processes' means so weighed is the mean over everything.
    """
    if _now.count == 1:
        return 1.0
    import torch
    from torch import distributed

    own = count.float() if isinstance(count, torch.Tensor) else torch.tensor(float(count))
    total = own.reshape(1).to(device, non_blocking=True, copy=True)
    distributed.all_reduce(total)
    return count * _now.count / total[0].clamp_min(1.0)


def average(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes; the tensor itself is overwritten with it."""
    if _now.count > 1:
        from torch import distributed

        distributed.all_reduce(value)
        value /= _now.count
    return value


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Let all processes have the mean of their gradients.

    A parameter without a gradient counts as zeros where another process has one for it.
    """
    if _now.count == 1:
        return
    import torch
    from torch import distributed

    listed = [p for p in parameters if p.requires_grad]
    have = torch.tensor([float(p.grad is not None) for p in listed])
    distributed.all_reduce(have)  # on the CPU: who has a gradient is known there
    for parameter, count in zip(listed, have.tolist(), strict=True):
        if count == 0.0:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        average(parameter.grad)

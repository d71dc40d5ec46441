"""The loop both stages share: resume, step, report, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .. import stopping
from ..config.models import AdamConfig
from ..files import remove_parts
from ..threads import crowding
from . import checkpoints
from .failure import FailedError, OnFailure, rate_scale, record, slower
from .folder import Run
from .progress import say, stage_progress


class Trainable(Protocol):
    """Everything of a stage that its next step depends on, beside the random state."""

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors by name."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        ...


class NotFiniteError(Exception):
    """The loss or its gradient, whichever the message names, is not finite."""


class Learner:
    """Modules with one Adam over them: a `Trainable` for stages without further state."""

    def __init__(
        self, config: AdamConfig, modules: Mapping[str, nn.Module], rates: Mapping[str, float]
    ) -> None:
        """`rates` overrides the learning rate of modules by name."""
        self.modules = dict(modules)
        self.names = checkpoints.parameter_names(*self.modules.items())
        groups = [
            {"params": list(m.parameters()), "lr": rates.get(n, config.learning_rate)}
            for n, m in self.modules.items()
            if any(True for _ in m.parameters())
        ]
        self.optimizer = torch.optim.Adam(groups, betas=config.betas, eps=config.eps)
        self._final, self._first = config.final, [group["lr"] for group in groups]
        self._scale = 1.0

    def slow(self, scale: float) -> None:
        """Multiply the learning rates that the configuration says by `scale` from now on."""
        self._scale = scale

    def descend(self, loss: Tensor, step: int, total: int) -> None:
        """One Adam step down `loss`, at the learning rate of `step` of `total`.

        Raises NotFiniteError before anything has moved if the loss or its gradient is not finite.
        """
        for group, first in zip(self.optimizer.param_groups, self._first, strict=True):
            group["lr"] = first * self._scale * cosine_decay(step / total, self._final)
        if not math.isfinite(float(loss.detach())):
            raise NotFiniteError("loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        named = [p for group in self.optimizer.param_groups for p in group["params"]]
        # A sum of squares may leave float32's range though each of them is in it; a maximum can't.
        sizes = [p.grad.abs().max() for p in named if p.grad is not None and p.grad.numel()]
        if sizes and not bool(torch.stack(sizes).isfinite().all()):
            raise NotFiniteError("gradient")
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        state = checkpoints.optimizer_state(self.optimizer, self.names)
        for name, module in self.modules.items():
            state |= checkpoints.with_prefix(name, module.state_dict())
        return state

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(checkpoints.under_prefix(name, tensors))
        checkpoints.load_optimizer_state(self.optimizer, self.names, tensors)


class Together:
    """Several trainables as one: the first as it is, the others each under a prefix."""

    def __init__(self, first: Trainable, **others: Trainable) -> None:
        self._first, self._others = first, others

    def tensors(self) -> dict[str, Tensor]:
        state = self._first.tensors()
        for name, other in self._others.items():
            state |= checkpoints.with_prefix(name, other.tensors())
        return state

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._first.load(tensors)
        for name, other in self._others.items():
            other.load(checkpoints.under_prefix(name, tensors))


def cosine_decay(progress: float, final: float) -> float:
    """From 1 at progress 0 to `final` at progress 1 along half a cosine."""
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def deterministic(device: torch.device) -> None:
    """On the CPU every sum has one order, so that a run's bits repeat."""
    torch.use_deterministic_algorithms(device.type == "cpu")
    # Nothing here reads memory before it wrote it, and filling it takes time in every operation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def train(
    run: Run,
    stage: str,
    folder: Path,
    state: Trainable,
    total: int,
    every: int,
    step: Callable[[int], Mapping[str, float]],
    on_failure: OnFailure = "stop",
    slow: Callable[[float], None] | None = None,
) -> None:
    """Take steps from the newest whole checkpoint to `total`, with a checkpoint each `every` steps.

    step: does step number `i` and returns the numbers to show, by name. slow: multiplies the
    learning rates, for `on_failure` "retry": then a number that is not finite leads back to the
    last checkpoint with half the rate. Raises FailedError if one of the numbers, or the gradient of
    a step, is not finite, naming it, the step and what the run can go on from; nothing of that step
    is kept. Raises Stopped, after a checkpoint of the step under way, if the process was asked to
    stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_parts(folder)
    while True:
        start = _resumed(run, folder, state)
        if slow is not None:
            slow(rate_scale(folder))
        if start >= total:
            return
        try:
            _steps(run, stage, folder, state, (start, total), every, step)
            return
        except FailedError as failed:
            record(run, failed)
            again = on_failure == "retry" and failed.kind == "not finite" and slow is not None
            if not again or not checkpoints.steps_on_disk(folder):
                raise
            if (scale := slower(folder)) is None:
                raise
            say(f"{failed.wrong}; back to the last checkpoint, at {scale:g} of the learning rate")


def _resumed(run: Run, folder: Path, state: Trainable) -> int:
    """Put a stage where its newest whole checkpoint left it; the steps it had done."""
    done, tensors = checkpoints.read_latest(folder, run.warn)
    start = done or 0
    if tensors is not None:
        with checkpoints.fitting(checkpoints.checkpoint_path(folder, start)):
            state.load(tensors)
            checkpoints.load_random_state(tensors)
    return start


def _steps(
    run: Run,
    stage: str,
    folder: Path,
    state: Trainable,
    span: tuple[int, int],
    every: int,
    step: Callable[[int], Mapping[str, float]],
) -> None:
    """The steps of a stage from `span[0]` to `span[1]`; see `train`."""
    start, total = span
    run.event("stage started", stage=stage, step=start, total=total)
    if (line := crowding()) is not None:
        say(line)
    began = time.monotonic()
    # Who asks to stop gets the step that is under way, and a checkpoint of it.
    with stage_progress(stage, total, start) as meter, stopping.finish_first():
        meter.update(start)
        for index in range(start, total):
            numbers = _finite_step(step, index, stage)
            meter.update(index + 1, numbers)
            asked = stopping.asked()
            if (index + 1) % every == 0 or index + 1 == total or asked:
                save(folder, index + 1, state)
                rounded = {name: float(f"{value:.6g}") for name, value in numbers.items()}
                run.event("checkpoint", stage=stage, step=index + 1, **rounded)
            if asked:
                run.event("stopped", stage=stage, step=index + 1)
                stopping.check()
    run.event("stage finished", stage=stage, seconds=round(time.monotonic() - began, 2))


def save(folder: Path, step: int, state: Trainable) -> None:
    """Write the checkpoint of `step`."""
    checkpoints.write_checkpoint(folder, step, state.tensors() | checkpoints.random_state())


def _finite_step(
    step: Callable[[int], Mapping[str, float]], index: int, stage: str
) -> Mapping[str, float]:
    try:
        numbers = step(index)
    except NotFiniteError as error:
        wrong = str(error)
    else:
        wrong = next((n for n, value in numbers.items() if not math.isfinite(value)), "")
        if not wrong:
            return numbers
    raise FailedError.not_finite(stage, index + 1, wrong) from None

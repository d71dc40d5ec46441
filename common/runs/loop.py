"""The loop both stages share: resume, step, report, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .. import backends, ranks, stopping
from ..config.models import AdamConfig
from ..device import Number, news, pick_device, prior_device
from ..files import remove_parts
from ..rooms import Rooms
from ..threads import crowding
from . import checkpoints
from .doctor import check_choices
from .failure import FailedError, OnFailure, rate_scale, record, slower
from .folder import Run
from .history import seconds_after, work_of
from .progress import say, stage_progress
from .stage import STAGES

LOOK = 10  # steps between two looks at what a device has found out
FINE = 2**62  # what stands for no step that failed


class Trainable(Protocol):
    """Everything of a stage that its next step depends on, beside the random state."""

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors by name."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        ...


class Watcher(Protocol):
    """Looks on while a stage learns. It draws no random numbers of the run and changes nothing."""

    def after(self, step: int, numbers: Mapping[str, float]) -> Path | None:
        """Look at what `step` steps have made; the path of a picture, if it took one."""
        ...


class NotFiniteError(Exception):
    """The loss or its gradient, whichever the message names, is not finite.

    step: the number of the step, where it is found out later than that.
    """

    def __init__(self, what: str, step: int | None = None) -> None:
        super().__init__(what)
        self.step = step


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
        device = next((p.device for g in groups for p in g["params"]), torch.device("cpu"))
        # On a GPU one kernel does all of Adam, and leaves out a step that is not finite.
        fused = True if device.type == "cuda" else None
        self.optimizer = torch.optim.Adam(groups, betas=config.betas, eps=config.eps, fused=fused)
        self._final, self._first = config.final, [group["lr"] for group in groups]
        self._failed = None if device.type == "cpu" else torch.full((), FINE, device=device)
        self._scale = 1.0
        self.rooms = Rooms()

    def step(self, device: torch.device) -> AbstractContextManager[None]:
        """The context of a step, from its first view to `descend`.

        On a GPU what the step makes of values gets rows set aside (`common.rooms`), unless
        `backends.sizes` is `asked`; a step for which they were too few moves nothing.
        """
        return self.rooms.held() if backends.sets_aside(device) else nullcontext()

    def slow(self, scale: float) -> None:
        """Multiply the learning rates that the configuration says by `scale` from now on."""
        self._scale = scale

    def descend(self, loss: Tensor, step: int, total: int) -> None:
        """One Adam step down `loss`, at the learning rate of `step` of `total`.

        Of several processes at the run each brings the loss of its own views; they take one step.

        Raises NotFiniteError before anything has moved if the loss or its gradient is not finite;
        on a GPU, which would have to be waited for, nothing moves from then on, and `check` raises.
        """
        for group, first in zip(self.optimizer.param_groups, self._first, strict=True):
            group["lr"] = first * self._scale * cosine_decay(step / total, self._final)
        crowded = self.rooms.crowded
        told = loss.detach() if crowded is None else torch.stack([loss.detach(), crowded.to(loss)])
        told = ranks.average(told.clone())
        value = told if crowded is None else told[0]
        if self._failed is None and not math.isfinite(float(value)):
            raise NotFiniteError("loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        named: list[Tensor] = [p for group in self.optimizer.param_groups for p in group["params"]]
        ranks.average_gradients(named)
        # A sum of squares may leave float32's range though each of them is in it; a maximum can't.
        sizes = [p.grad.abs().max() for p in named if p.grad is not None and p.grad.numel()]
        largest = torch.stack(sizes).max() if sizes else loss.detach()
        if self._failed is not None:
            self._remember(value, largest, step, None if crowded is None else told[1] > 0)
        elif not bool(largest.isfinite()):
            raise NotFiniteError("gradient")
        self.optimizer.step()

    def check(self) -> None:
        """Raise NotFiniteError for the first step of a GPU that was not finite.

        Makes room for what the last steps needed, and tells of those that it was too small for.
        """
        if self._failed is None:
            return
        if (left_out := self.rooms.settle()) > 0:
            say(f"{left_out} steps needed more room than was set aside, and were left out")
        failed = int(self._failed)
        if failed != FINE:
            raise NotFiniteError("gradient" if failed % 2 else "loss", failed // 2)

    def _remember(self, loss: Tensor, largest: Tensor, step: int, crowded: Tensor | None) -> None:
        """Note on the device whether a step is finite; the optimizer leaves it out if not.

        So it does with a crowded one, which is no failure.
        """
        assert self._failed is not None
        found = torch.where(largest.isfinite(), FINE, 2 * step + 1)
        found = torch.where(loss.detach().isfinite(), found, 2 * step)
        if crowded is not None:
            found = torch.where(crowded, FINE, found)
            self.rooms.left_out(crowded)
        self._failed = torch.where(self._failed == FINE, found, self._failed)
        out = self._failed != FINE
        if self.optimizer.defaults["fused"]:
            out = out if crowded is None else out | crowded
            self.optimizer.found_inf = out.float()  # pyright: ignore[reportAttributeAccessIssue]

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


def begin_on(run: Run) -> torch.device:
    """The device of a run, made ready: what is wrong with it told, its twins chosen."""
    for line in news(run.config.device):
        run.warn(line)
    backends.use(run.config.backends)
    device = ranks.own_device(pick_device(run.config.device))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # Triton launches its kernels on the current one
    # Of the CPU's operations all have an order; of another device's that a prior computes on not.
    deterministic(device, strict=prior_device(run.config.device, device) == device)
    check_choices(run.config, device)
    return device


def deterministic(device: torch.device, strict: bool = True) -> None:
    """On the CPU every sum has one order, so that a run's bits repeat.

    strict: whether an operation that has none raises.
    """
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=not strict)
    # Nothing here reads memory before it wrote it, and filling it takes time in every operation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def looks(index: int, device: torch.device) -> bool:
    """Whether step `index` may be looked at: on a CPU each, else one in `LOOK`, for it waits."""
    return device.type == "cpu" or (index + 1) % LOOK == 0


@dataclass(frozen=True)
class Hooks:
    """What a stage's loop asks beside its steps.

    watcher: looks on, and changes nothing. check: raises NotFiniteError for what a device has found
    out since it was asked last. slow: multiplies the learning rates, for `on_failure` "retry": then
    a number that is not finite leads back to the last checkpoint with half the rate.
    """

    watcher: Watcher | None = None
    check: Callable[[], None] = lambda: None
    slow: Callable[[float], None] | None = None
    on_failure: OnFailure = "stop"


def train(
    run: Run,
    stage: str,
    folder: Path,
    state: Trainable,
    total: int,
    every: int,
    step: Callable[[int], Mapping[str, Number]],
    hooks: Hooks | None = None,
) -> None:
    """Take steps from the newest whole checkpoint to `total`, with a checkpoint each `every` steps.

    step: does step number `i` and returns the numbers to show, by name; those that lie on a device
    are read every `LOOK` steps. Raises FailedError if one of the numbers, or the gradient of a
    step, is not finite, naming it, the step and what the run can go on from; nothing of that step
    is kept. Raises Stopped, after a checkpoint of the step under way, if the process was asked to
    stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_parts(folder)
    hooks = hooks or Hooks()
    ranks.wait()  # for what the first process has written
    while True:
        start = _resumed(run, folder, state)
        if hooks.slow is not None:
            hooks.slow(rate_scale(folder))
        if start >= total:
            return
        try:
            _steps(run, stage, folder, state, (start, total), every, step, hooks)
            return
        except FailedError as failed:
            record(run, failed)
            again = hooks.on_failure == "retry" and failed.kind == "not finite"
            if not again or hooks.slow is None or not checkpoints.steps_on_disk(folder):
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
    step: Callable[[int], Mapping[str, Number]],
    hooks: Hooks,
) -> None:
    """The steps of a stage from `span[0]` to `span[1]`; see `train`."""
    start, total = span
    run.event("stage started", stage=stage, step=start, total=total)
    if (line := crowding()) is not None:
        say(line)
    began = time.monotonic()
    later = seconds_after(run, stage)
    # Who asks to stop gets the step that is under way, and a checkpoint of it.
    with stage_progress(stage, total, start, later) as meter, stopping.finish_first():
        meter.update(start)
        numbers: Mapping[str, float] = {}
        for index in range(start, total):
            due = (index + 1) % every == 0 or index + 1 == total
            look = due or (index + 1) % LOOK == 0
            found = _finite_step(step, hooks.check, index, stage, look)
            numbers = numbers if found is None else found
            picture = hooks.watcher.after(index + 1, numbers) if hooks.watcher is not None else None
            meter.update(index + 1, numbers, picture)
            asked = stopping.asked()
            if due or asked:
                save(folder, index + 1, state)
                rounded = {name: float(f"{value:.6g}") for name, value in numbers.items()}
                run.event("checkpoint", stage=stage, step=index + 1, **rounded)
            if asked:
                run.event("stopped", stage=stage, step=index + 1)
                stopping.check()
    seconds = round(time.monotonic() - began, 2)
    work = next((work_of(run, each) for each in STAGES if each.name == stage), None)
    run.event("stage finished", stage=stage, seconds=seconds, steps=total - start, work=work)


def save(folder: Path, step: int, state: Trainable) -> None:
    """Write the checkpoint of `step`."""
    checkpoints.write_checkpoint(folder, step, state.tensors() | checkpoints.random_state())


def _finite_step(
    step: Callable[[int], Mapping[str, Number]],
    check: Callable[[], None],
    index: int,
    stage: str,
    look: bool,
) -> Mapping[str, float] | None:
    """Take a step; its numbers, or None where they are still on their way and nobody looks."""
    try:
        found = step(index)
        if not look and any(isinstance(value, Tensor) for value in found.values()):
            return None
        check()
        numbers = {name: float(value) for name, value in found.items()}
    except NotFiniteError as error:
        wrong, index = str(error), index if error.step is None else error.step
    else:
        wrong = next((n for n, value in numbers.items() if not math.isfinite(value)), "")
        if not wrong:
            return numbers
    raise FailedError.not_finite(stage, index + 1, wrong) from None

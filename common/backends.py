"""Twins: the implementations of a hot function, and which of them runs where.

A twin is asked for by trying it, once a process and device: what is installed may still lack a
compiler, a driver or a card that it was built for. `--set backends.PART=NAME` chooses by hand.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch

from .config.backends import BackendsConfig
from .errors import UserError

_by_hand: dict[str, str] = {}
_picked: dict[tuple[str, str, bool], Twin] = {}


class Twin(NamedTuple):
    """The name of an implementation, and in a few words why it is the one."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


Obstacle = Callable[[torch.device], str | None]
"""Why a twin can't run on a device; None where it can."""


def use(config: BackendsConfig) -> None:
    """Let the twins that a configuration names run from now on, in this process."""
    _by_hand.clear()
    _picked.clear()
    _by_hand.update({part: name for part, name in dict(config).items() if name != "auto"})
    precision = "high" if config.networks == "tf32" else "highest"
    if torch.get_float32_matmul_precision() != precision:
        torch.set_float32_matmul_precision(precision)


def sets_aside(device: torch.device) -> bool:
    """Whether steps on a device get rows set aside instead of asking it for sizes."""
    return device.type != "cpu" and "sizes" not in _by_hand


def multiplying(device: torch.device) -> AbstractContextManager[object]:
    """A context in which small networks multiply as `backends.networks` says."""
    bfloat16 = _by_hand.get("networks") == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()


def pick(
    part: str, device: torch.device | str, obstacles: Mapping[str, Obstacle], float32: bool = True
) -> Twin:
    """The twin of a part for a device.

    obstacles: the twins, best first; the last one runs everywhere. float32: whether the tensors are
    of that dtype, which is all that compiled twins take. Raises UserError where the one that was
    chosen by hand doesn't run.
    """
    key = (part, str(device), float32)
    if key not in _picked:
        _picked[key] = _pick(part, torch.device(device), obstacles, float32)
    return _picked[key]


def _pick(part: str, where: torch.device, obstacles: Mapping[str, Obstacle], float32: bool) -> Twin:
    if not float32:
        return Twin("torch", "the compiled twins are float32 only")
    chosen = _by_hand.get(part)
    if chosen is not None:
        problem = obstacles[chosen](where)
        if problem is None:
            return Twin(chosen, "chosen by hand")
        raise UserError(f"backends.{part}: {chosen} does not run here: {problem}; leave it at auto")
    problems = []
    for name, obstacle in obstacles.items():
        problem = obstacle(where)
        if problem is None:
            return Twin(name, "; ".join(problems) or _praise(name, where))
        if not (name == "numba" or where.type == "cpu"):
            problems.append(f"{name}: {problem}")
    raise AssertionError(f"{part}: no twin runs on {where}")


def everywhere(device: torch.device) -> str | None:
    """Plain torch has no obstacle."""
    return None


def numba_obstacle(device: torch.device) -> str | None:
    """numba's loops are compiled for the processor."""
    return None if device.type == "cpu" else "its loops are for the CPU"


def triton_obstacle(device: torch.device) -> str | None:
    """Whether Triton compiles and runs a kernel on a device; on the CPU only its interpreter."""
    if importlib.util.find_spec("triton") is None:
        return "Triton isn't installed"
    if device.type == "cpu":
        return None if _interpreted() else "it compiles for GPUs"
    return _tried(device) if device.type == "cuda" else f"it has no code for {device.type}"


def _interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, in this process."""
    try:
        from triton import knobs  # pyright: ignore[reportMissingImports]
    except ImportError:  # before Triton 3.4
        return os.environ.get("TRITON_INTERPRET") == "1"
    return bool(knobs.runtime.interpret)


@cache
def _tried(device: torch.device) -> str | None:
    """Run a kernel of one line on a GPU; what went wrong, in one line, or None."""
    try:
        probe = importlib.import_module(".triton_probe", __package__)
        return probe.problem(device)
    except Exception as error:  # whatever it is: another twin runs in its place
        return first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__


def module_of(name: str, package: str | None) -> Any:
    """A twin's module, which imports what only that twin needs, on first use."""
    return importlib.import_module(name, package)


def _praise(name: str, device: torch.device) -> str:
    if name == "numba":
        return "compiled for this processor"
    if name == "torch":
        return "runs everywhere"
    return "compiled for this GPU" if device.type == "cuda" else "in its interpreter"

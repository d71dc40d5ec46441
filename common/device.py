"""Choosing the device of a run, and bringing tensors there without waiting for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .errors import UserError

_said: set[str] = set()


def pick_device(name: str) -> torch.device:
    """The torch device of a setting such as `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    `auto` is CUDA where there is a card that this torch was built for, else the CPU. With `mps` the
    scene lies on the CPU as well, see `prior_device`. Raises UserError for a device that isn't
    there, or that this torch was not built for.
    """
    if name == "mps" and mps_present():
        return torch.device("cpu")
    if name == "auto":
        usable = torch.cuda.is_available() and misfit(torch.device("cuda")) is None
        return torch.device("cuda" if usable else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"'{name}' is no device; give auto, {', '.join(devices())}") from None
    if device.type not in {"cpu", "cuda"} or not _present(device):
        beside = card_beside() if device.type == "cuda" else None
        raise UserError(
            f"device '{name}' isn't there or isn't supported; this machine offers: "
            f"{', '.join(devices())}{f'; {beside}' if beside else ''}"
        )
    if problem := misfit(device):
        raise UserError(f"device '{name}': {problem}; or give --device cpu")
    return device


def mps_present() -> bool:
    """Whether torch can compute on this machine's Apple GPU."""
    return torch.backends.mps.is_available()


def prior_device(name: str, scene: torch.device) -> torch.device:
    """Where the network that guides a run computes, for a device setting and the scene's device.

    On a Mac that is MPS, with `mps` and `auto`; the scene stays on the CPU, for its geometry wants
    float64, which MPS doesn't have. Everywhere else both are in one place.
    """
    if name == "mps" or (name == "auto" and scene.type == "cpu" and mps_present()):
        return torch.device("mps")
    return scene


def news(name: str) -> list[str]:
    """What a user should know of a device setting before anything is loaded; each line once."""
    lines: list[str] = []
    if name == "auto" and torch.cuda.is_available():
        lines = [
            f"{problem}; the CPU does the work"
            for problem in [misfit(torch.device("cuda"))]
            if problem
        ]
    elif name == "auto" and (beside := card_beside()):
        lines = [f"{beside}; the CPU does the work"]
    fresh = [line for line in lines if line not in _said]
    _said.update(fresh)
    return fresh


def card_beside() -> str | None:
    """What to do about a card that this torch, a build without CUDA, doesn't see; None for none."""
    tool = shutil.which("nvidia-smi")
    if tool is None or torch.version.cuda is not None or torch.version.hip is not None:
        return None
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    card = found.stdout.strip().splitlines()[:1]
    return (
        f"this torch was built without CUDA and doesn't see the {card[0].strip()}; install a build "
        "with CUDA, as pytorch.org/get-started says: pip install --force-reinstall torch with the "
        "index it names"
        if card
        else None
    )


def misfit(device: torch.device) -> str | None:
    """What is wrong between a device and this build of torch; None if nothing is."""
    if device.type != "cuda":
        return None
    return build_problem(torch.cuda.get_device_capability(device), torch.cuda.get_arch_list())


def build_problem(capability: tuple[int, int], built_for: Sequence[str]) -> str | None:
    """Why a card of a compute capability can't run what a torch was built for; None if it can.

    built_for: as `torch.cuda.get_arch_list` says: `sm_86` runs on 8.6 to 8.9, `compute_86` is
    compiled by the driver for anything from 8.6 on. Lists of other makers' cards say nothing.
    """
    code = [_numbers(name) for name in built_for if name.startswith("sm_")]
    portable = [_numbers(name) for name in built_for if name.startswith("compute_")]
    if not code and not portable:
        return None
    if any(major == capability[0] and minor <= capability[1] for major, minor in code):
        return None
    if any(number <= capability for number in portable):
        return None
    older = capability < min(code + portable)
    card = f"the card's compute capability {capability[0]}.{capability[1]}"
    which = "an older build of torch" if older else "a newer build of torch"
    return (
        f"{card} is {'older' if older else 'newer'} than this torch was built for; install {which}"
    )


def _numbers(architecture: str) -> tuple[int, int]:
    """Major and minor of a name such as `sm_90a` or `compute_120`."""
    digits = re.sub(r"\D", "", architecture)
    return int(digits[:-1]), int(digits[-1])


def devices() -> list[str]:
    """Names of the devices this machine offers."""
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *cards, *(["mps"] if mps_present() else [])]


def threads() -> int:
    """How many threads torch computes with on the CPU."""
    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Compute with so many threads on the CPU from now on."""
    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16, so that it computes in it natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return False  # untried
    return torch.cpu._is_avx512_bf16_supported()


Number = float | Tensor
"""A number to be shown, or a scalar that is still on its way from a device."""


def shown(value: Tensor) -> Number:
    """A scalar as a number, if it lies on the CPU; a device's is read when somebody looks at it."""
    return float(value.detach()) if value.device.type == "cpu" else value.detach()


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on `device`; from the CPU without waiting for what the device still has to do."""
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, exact: bool = False, **options: Any
) -> None:
    """Run a Triton kernel on the device of its first argument; Triton itself takes the current GPU.

    exact: every product and sum is rounded by itself, as on the CPU, where the GPU would else fuse
    them: so that two variants of a kernel, and two faces at an edge, decide alike.
    """
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, enable_fp_fusion=not exact, **options)


class Waiting:
    """Where a step may wait for its device: for how large what follows is, and nothing else.

    `torch.cuda.set_sync_debug_mode("error")` finds every other place; it is lifted within a block.
    depth: how many blocks are open.
    """

    depth = 0

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def __enter__(self) -> None:
        Waiting.depth += 1
        if self._cuda:
            self._before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode(0)

    def __exit__(self, *error: object) -> None:
        Waiting.depth -= 1
        if self._cuda:
            torch.cuda.set_sync_debug_mode(self._before)


def size_of(count: Tensor) -> int:
    """A count as a whole number, for something to be made as large as that."""
    with Waiting(count.device):
        return int(count)


def indices_of(mask: Tensor) -> Tensor:
    """Where a flat mask `[N]` is true, int64 `[M]`, ascending."""
    with Waiting(mask.device):
        return torch.nonzero(mask)[:, 0]


def constant(
    values: tuple[Any, ...], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Numbers (nested tuples) as a tensor that stays on `device`; not to be written to.

    dtype: None is that of whole numbers or of others, as `torch.tensor` tells them apart.
    """
    # Told apart before they are looked up: (1, 0, 1) and (1.0, 0.0, 1.0) are one key.
    return _constant(values, device, torch.tensor(values).dtype if dtype is None else dtype)


@lru_cache(maxsize=256)
def _constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return send(torch.tensor(values, dtype=dtype), device)


def _present(device: torch.device) -> bool:
    if device.type == "cpu":
        return device.index in (None, 0)
    return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()

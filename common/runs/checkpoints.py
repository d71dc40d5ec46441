"""Checkpoints: safetensors with the step, the random state and a checksum, written whole.

A checkpoint holds everything the next step depends on: parameters, the optimizer's moments,
buffers, and the state of torch's random generators. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .. import ranks
from ..errors import UserError, one_line, shown
from ..files import write_whole

FORMAT = "2"
KEEP = 2  # how many checkpoints of a stage stay on disk
_NAME = re.compile(r"^step-(\d{6,})\.safetensors$")


class DamagedCheckpointError(Exception):
    """A checkpoint file that is truncated, altered, or not ours."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / f"step-{step:06d}.safetensors"


def steps_on_disk(folder: Path) -> list[int]:
    """Steps that have a checkpoint file, ascending."""
    if not folder.is_dir():
        return []
    matches = (_NAME.match(p.name) for p in folder.iterdir())
    return sorted(int(m.group(1)) for m in matches if m)


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> Path:
    """Write the state after `step` steps and drop all but the newest `KEEP` checkpoints."""
    path = checkpoint_path(folder, step)
    if not ranks.now().first:
        return path
    write_tensors(path, tensors)
    for old in [s for s in steps_on_disk(folder) if s < step][: -(KEEP - 1) or None]:
        checkpoint_path(folder, old).unlink(missing_ok=True)
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with a checksum, whole or not at all."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_whole(path, save(plain, metadata={"format": FORMAT, "digest": _digest(plain)}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `write_tensors` file; DamagedCheckpointError if it is not whole."""
    try:
        if not path.is_file():  # opening a pipe would wait for its other end
            raise ValueError("it is no plain file" if path.exists() else "there is none")
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        reason = one_line(str(error), 80)
        raise DamagedCheckpointError(f"{path.name} cannot be read ({reason})") from error
    if meta.get("format") != FORMAT:
        raise UserError(
            f"{path} is of checkpoint format {shown(repr(meta.get('format')))}, this version reads "
            f"{FORMAT!r}; finish the run with the version that began it, or start anew"
        )
    if meta.get("digest") != _digest(tensors):
        raise DamagedCheckpointError(f"{path.name} does not match its checksum")
    return tensors


def stored_digest(path: Path) -> str:
    """The checksum that a `write_tensors` file carries, unchecked; "" if it can't be read.

    Of the tensors: the bytes of two files that hold the same ones may differ.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("digest", "")
    except (SafetensorError, OSError, ValueError):
        return ""


def read_latest(
    folder: Path, warn: Callable[[str], None]
) -> tuple[int, dict[str, Tensor]] | tuple[None, None]:
    """The newest whole checkpoint of a stage as (step, tensors), or (None, None) if there is none.

    Every damaged one on the way is named through `warn` with what is used in its place. Raises
    UserError if there are checkpoints and none of them is whole.
    """
    steps = steps_on_disk(folder)
    for index in range(len(steps) - 1, -1, -1):
        path = checkpoint_path(folder, steps[index])
        try:
            return steps[index], read_tensors(path)
        except DamagedCheckpointError as error:
            if index == 0:
                raise UserError(
                    f"{path} is damaged: {error}, and no earlier checkpoint is left; delete "
                    f"{folder} and run `maquette resume` to do this stage again"
                ) from error
            before = checkpoint_path(folder, steps[index - 1]).name
            warn(f"{path} is damaged: {error}; going on from {before}")
    return None, None


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Within the block a file's tensors are put to use; UserError where they lack or don't fit.

    A checksum says that a file is as it was written, not that it is of these settings.
    """
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"{path} lacks {shown(error.args[0] if error.args else 'a tensor')}: it is of another "
            f"version or of other settings; put config.yaml back, or delete {path.parent} and run "
            "`maquette resume` to do this stage again"
        ) from None
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"{path} doesn't fit the settings ({one_line(str(error), 80)}); put config.yaml back, "
            f"or delete {path.parent} and run `maquette resume` to do this stage again"
        ) from None


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> dict[str, Tensor]:
    """Adam's moments as flat tensors `optimizer/<parameter>/<moment>`; `names` by id(parameter)."""
    return {
        f"optimizer/{names[id(parameter)]}/{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_state` took out."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"optimizer/{names[id(parameter)]}/"
            state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                optimizer.state[parameter] = {
                    # Adam keeps its step count on the CPU, unless fused, its moments beside the
                    # parameter.
                    k: v.clone() if k == "step" and not group["fused"] else v.to(parameter.device)
                    for k, v in state.items()
                }


def parameter_names(*modules: tuple[str, nn.Module]) -> dict[int, str]:
    """Names of parameters by id, each prefixed with its module's name."""
    return {
        id(parameter): f"{prefix}.{name}"
        for prefix, module in modules
        for name, parameter in module.named_parameters()
    }


def random_state() -> dict[str, Tensor]:
    """States of torch's random generators."""
    state = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["random/cuda"] = torch.cuda.get_rng_state()
    return state


def load_random_state(tensors: Mapping[str, Tensor]) -> None:
    """Put back what `random_state` took out."""
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])


def with_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dictionary under `prefix/`."""
    return {f"{prefix}/{key}": value for key, value in state.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a checkpoint that `with_prefix` put under `prefix/`."""
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{prefix}/")}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for key in sorted(tensors):
        value = tensors[key]
        total.update(f"{key}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()

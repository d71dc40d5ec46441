"""`maquette doctor`: which implementation runs for each part on this machine, and why."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

import torch

from ..device import pick_device
from ..fields.hashgrid import twin
from ..rasterize.visibility import nvdiffrast_installed


def report() -> list[str]:
    """Lines `part: what runs (why)`: versions, devices, every part with a choice, bf16, extras.

    Nothing is started on a GPU, and nothing is compiled.
    """
    device = pick_device("auto")
    return [
        f"python: {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch: {torch.__version__}, {torch.get_num_threads()} threads",
        *(f"device: {line}" for line in _devices()),
        f"chosen by `auto`: {device.type}",
        f"hash grid: {twin(device)}",
        f"ray marching: {_marching(device)}",
        f"volume rendering: {_rendering(device)}",
        f"visibility: {_visibility(device)}",
        f"marching tetrahedra: {_tetrahedra(device)}",
        f"unwrapping: {_unwrapping()}",
        f"bf16: {_bf16(device)}",
        f"nvdiffrast (optional): {_nvdiffrast()}",
        f"kaolin (optional): {_kaolin()}",
    ]


def _devices() -> list[str]:
    lines = [f"cpu ({platform.processor() or platform.machine()})"]
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = found.total_memory / 2**30
        lines.append(f"cuda:{index} ({found.name}, {memory:.0f} GiB)")
    if not torch.cuda.is_available():
        lines.append(f"no CUDA ({_no_cuda()})")
    return lines


def _no_cuda() -> str:
    if torch.version.cuda is None:
        return "this torch was built without it"
    return "torch sees no GPU; is its driver installed?"


def _marching(device: torch.device) -> str:
    if device.type == "cuda":
        return f"nerfacc {_version('nerfacc')} (its sampler runs on CUDA)"
    return "numba (nerfacc's sampler runs on CUDA only; ours takes the same samples)"


def _rendering(device: torch.device) -> str:
    if device.type == "cuda":
        return "torch (the compiled loops are for the CPU)"
    return "numba (compiled for this processor)"


def _visibility(device: torch.device) -> str:
    if device.type == "cpu":
        return "numba z-buffer (nvdiffrast needs CUDA)"
    if nvdiffrast_installed():
        return "nvdiffrast (installed, and the device is a GPU)"
    return "numba z-buffer on the CPU, with copies (nvdiffrast isn't installed)"


def _tetrahedra(device: torch.device) -> str:
    if device.type == "cpu":
        return "numba (compiled for this processor)"
    return "torch (the compiled loop is for the CPU)"


def _unwrapping() -> str:
    found = _version("xatlas")
    if found is None:
        return "built-in charts (xatlas isn't installed)"
    return f"xatlas {found} in a child process (built-in charts if it takes too long)"


def _bf16(device: torch.device) -> str:
    if device.type == "cpu":
        return "not used (on the CPU everything is float32)"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "supported by the GPU"
    return "not supported by the GPU (models that want it run slowly or not at all)"


def _nvdiffrast() -> str:
    if not nvdiffrast_installed():
        return "not found; the z-buffer does its work everywhere"
    if not torch.cuda.is_available():
        return "found, but it needs CUDA; the z-buffer does its work"
    return "found (its licence is non-commercial)"


def _kaolin() -> str:
    try:
        found = importlib.util.find_spec("kaolin.ops.conversions") is not None
    except (ImportError, OSError):  # absent, the registry's placeholder, or built for another torch
        found = False
    if not found:
        return "not found; our marching tetrahedra run everywhere"
    return "found, and not needed: our marching tetrahedra run everywhere"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

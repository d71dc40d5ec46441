"""`maquette doctor`: which implementation runs for each part on this machine, and why."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform

import torch

from ..config.backends import BackendsConfig
from ..config.models import RunConfig
from ..device import build_problem, card_beside, mps_present, pick_device
from ..errors import UserError

PARTS = {
    "hash grid": "...common.fields.hashgrid",
    "ray marching": "...coarse.ray_marching",
    "volume rendering": "...coarse.compositing",
    "visibility": "...common.rasterize.visibility",
    "interpolation": "...common.rasterize.interpolate",
    "antialiasing": "...common.rasterize.antialias",
    "marching tetrahedra": "...fine.isosurface",
}
"""The parts that have twins, and the modules that are asked which one runs."""
BY_HAND = {
    "nerfacc": ("ray marching", "nerfacc_obstacle", "backends.ray_marching=nerfacc"),
    "nvdiffrast (optional)": (
        *("visibility", "nvdiffrast_obstacle"),
        "backends.visibility=nvdiffrast; its licence is non-commercial",
    ),
    "kaolin (optional)": (
        *("marching tetrahedra", "kaolin_obstacle"),
        "fine.geometry.isosurface=kaolin",
    ),
}
"""Libraries whose kernels are taken by hand: of which part, who says what hinders them, and how."""
KAOLIN = BY_HAND["kaolin (optional)"][:2]


def report() -> list[str]:
    """Lines `part: what runs (why)`: versions, devices, every part with a choice, bf16, extras.

    Each part's module is asked; on a GPU that lets a kernel of one line run there.
    """
    device = pick_device("auto")
    return [
        f"python: {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch: {torch.__version__}, {torch.get_num_threads()} threads",
        *(f"device: {line}" for line in _devices()),
        f"chosen by `auto`: {device.type}",
        *(f"{part}: {twin_of(part, device)}" for part in PARTS),
        f"unwrapping: {_unwrapping()}",
        f"bf16: {_bf16(device)}",
        *(f"{name}: {_by_hand(name, device)}" for name in BY_HAND),
    ]


def twin_of(part: str, device: torch.device) -> str:
    """What a part's module says of its twin on a device."""
    return str(importlib.import_module(PARTS[part], __package__).twin(device))


def check_choices(config: RunConfig, device: torch.device) -> None:
    """Raise UserError where an implementation that was chosen by hand doesn't run on a device."""
    if dict(config.backends) != dict(BackendsConfig()):
        for part in PARTS:
            twin_of(part, device)
    if config.fine.geometry.isosurface == "kaolin" and (problem := _obstacle(*KAOLIN, device)):
        raise UserError(f"fine.geometry.isosurface: {problem}; or leave it at own")


def _obstacle(part: str, who: str, device: torch.device) -> str | None:
    """What a part's module says hinders a library on a device."""
    return getattr(importlib.import_module(PARTS[part], __package__), who)(device)


def _by_hand(name: str, device: torch.device) -> str:
    """Whether a library's kernels run here, which is found out by letting them; and how to."""
    part, who, setting = BY_HAND[name]
    problem = _obstacle(part, who, device)
    return problem or f"{_version(name.split()[0])} works here (by hand: --set {setting})"


def _devices() -> list[str]:
    lines = [f"cpu ({platform.processor() or platform.machine()})"]
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = found.total_memory / 2**30
        problem = build_problem((found.major, found.minor), torch.cuda.get_arch_list())
        lines.append(
            f"cuda:{index} ({found.name}, {memory:.0f} GiB{f'; {problem}' if problem else ''})"
        )
    if mps_present():
        lines.append("mps (for the network of a prior, untried; the scene stays on the CPU)")
    if not torch.cuda.is_available():
        lines.append(f"no CUDA ({_no_cuda()})")
    return lines


def _no_cuda() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return card_beside() or "this torch was built without it"
    return "torch sees no GPU; is its driver installed?"


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
    return "not supported by the GPU (models that want it run in float16)"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

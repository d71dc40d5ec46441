"""Which implementation of each hot function runs; `auto` is the fastest one that works."""

from __future__ import annotations

from typing import Literal

from ..options import Part


class BackendsConfig(Part):
    """Twins chosen by hand; `maquette doctor` says what `auto` comes to on a machine.

    numba runs on the CPU alone; nerfacc and nvdiffrast, where they are installed and their kernels
    can be built, on CUDA alone. A choice that doesn't work here ends the run before it begins.
    """

    hash_grid: Literal["auto", "torch", "numba", "triton"] = "auto"
    ray_marching: Literal["auto", "torch", "numba", "triton", "nerfacc"] = "auto"
    compositing: Literal["auto", "torch", "numba", "triton"] = "auto"
    visibility: Literal["auto", "torch", "numba", "triton", "nvdiffrast"] = "auto"
    interpolation: Literal["auto", "torch", "numba", "triton"] = "auto"
    antialiasing: Literal["auto", "torch", "numba", "triton"] = "auto"
    tetrahedra: Literal["auto", "torch", "numba"] = "auto"
    sizes: Literal["auto", "asked"] = "auto"
    """`asked` asks a GPU in each step how many samples, pixels and faces there are, and waits;
    else rows are set aside for as many as the last steps needed and half as many again."""
    networks: Literal["float32", "tf32", "bfloat16"] = "float32"
    """How the small networks of field and texture multiply; `tf32` is for GPUs, and holds for all
    that multiplies in float32 there."""

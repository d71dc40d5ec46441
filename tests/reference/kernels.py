"""What each Triton kernel is called with: module, name, types of arguments, compiled-in numbers."""

from __future__ import annotations

from typing import Any

Kernel = tuple[str, str, dict[str, str], dict[Any, Any]]


def kernel(module: str, name: str, arguments: str, **constants: Any) -> Kernel:
    """arguments: "name:type" pairs in order, without what is compiled in."""
    signature = dict(pair.split(":") for pair in arguments.split())
    signature |= dict.fromkeys(constants, "constexpr")
    return f"maquette.{module}", name, signature, dict(constants)


MARCH = (
    "origin_ptr:*fp32 direction_ptr:*fp32 occupied_ptr:*u8 box_ptr:*fp32 near_ptr:*fp32 "
    "far_ptr:*fp32 step:fp32 first_ptr:*i64 ray_ptr:*i64 start_ptr:*fp32 end_ptr:*fp32 room:i32"
)
RAYS = {"BLOCK": 64}
GRID = {"LEVELS": 16, "FEATURES": 2, "PRIME_Y": 2_654_435_761, "PRIME_Z": 805_459_861, "BLOCK": 256}
LAYOUT = "resolution_ptr:*i64 offset_ptr:*i64 hashed_ptr:*i64"
RASTER = "vertices:i32 height:i32 width:i32"
BARY = "clip_ptr:*fp32 face_ptr:*i64 pixel_ptr:*i64 seen_ptr:*i64"
ROWS = "table_ptr:*fp32 corner_ptr:*i64 weight_ptr:*fp32"
HASH = "common.fields.hashgrid.triton_twin"
VOLUME, INTERPOLATE = "coarse.triton_compositing", "common.rasterize.triton_interpolate"

KERNELS: list[Kernel] = [
    kernel("common.triton_probe", "_double", "value_ptr:*fp32", BLOCK=16),
    *(
        kernel("coarse.triton_march", "_march", MARCH, WRITE=w, BLOCK=128, SX=256, SY=256, SZ=256)
        for w in (False, True)
    ),
    kernel(
        VOLUME, "_weights_forward",
        "density_ptr:*fp32 length_ptr:*fp32 offset_ptr:*i64 weight_ptr:*fp32 passed_ptr:*fp32",
        **RAYS,
    ),
    kernel(
        VOLUME, "_weights_backward",
        "cotangent_ptr:*fp32 length_ptr:*fp32 offset_ptr:*i64 weight_ptr:*fp32 passed_ptr:*fp32 "
        "grad_ptr:*fp32",
        **RAYS,
    ),
    kernel(
        VOLUME, "_accumulate_forward",
        "weight_ptr:*fp32 value_ptr:*fp32 offset_ptr:*i64 total_ptr:*fp32 channels:i32",
        BLOCK=64, WIDTH=8,
    ),
    kernel(
        VOLUME, "_accumulate_backward",
        "weight_ptr:*fp32 value_ptr:*fp32 ray_ptr:*i64 cotangent_ptr:*fp32 grad_weight_ptr:*fp32 "
        "grad_value_ptr:*fp32 count:i32 rays:i32",
        CHANNELS=5, BLOCK=256,
    ),
    kernel(
        HASH, "_forward",
        f"x_ptr:*fp32 tables_ptr:*fp32 {LAYOUT} out_ptr:*fp32 count:i32", **GRID,
    ),
    kernel(
        HASH, "_backward_tables",
        f"x_ptr:*fp32 {LAYOUT} cotangent_ptr:*fp32 grad_tables_ptr:*fp32 count:i32", **GRID,
    ),
    kernel(
        HASH, "_backward_x",
        f"x_ptr:*fp32 tables_ptr:*fp32 {LAYOUT} cotangent_ptr:*fp32 grad_x_ptr:*fp32 count:i32",
        **GRID,
    ),
    kernel(
        "common.rasterize.triton_visibility", "_draw",
        f"screen_ptr:*fp64 valid_ptr:*u8 face_ptr:*i64 key_ptr:*i64 {RASTER}",
        DEPTH_STEPS=2**34, FACE_STEPS=2**27, TILE=8,
    ),
    kernel(
        "common.rasterize.triton_silhouette", "_walk",
        "screen_ptr:*fp64 valid_ptr:*u8 face_ptr:*i64 opposite_ptr:*i64 index_ptr:*i64 "
        "depth_ptr:*fp32 key_ptr:*i64 vertices:i32 count:i32 height:i32 width:i32",
        SHORTEST=2.0**-10, REACHES=2**30, HALF_EDGES=2**30 - 1, LOW=2**31, BLOCK=128,
    ),
    kernel(INTERPOLATE, "_bary_forward", f"{BARY} bary_ptr:*fp32 {RASTER} count:i32", BLOCK=128),
    kernel(
        INTERPOLATE, "_bary_backward",
        f"{BARY} cotangent_ptr:*fp32 grad_ptr:*fp32 {RASTER} count:i32", BLOCK=128,
    ),
    kernel(
        INTERPOLATE, "_rows_forward", f"{ROWS} value_ptr:*fp32 count:i32", CHANNELS=6, BLOCK=128
    ),
    *(
        kernel(
            INTERPOLATE, "_rows_backward",
            f"{ROWS} cotangent_ptr:*fp32 grad_table_ptr:*fp32 grad_weight_ptr:*fp32 count:i32",
            CHANNELS=6, TABLE=table, BLOCK=128,
        )
        for table in (False, True)
    ),
]  # fmt: skip

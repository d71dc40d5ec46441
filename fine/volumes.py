"""Volumes: what the hand-off's searches, cleaning and distances have in common.

A volume is float32 `[N, N, N]`, indexed x, y, z, its values at the points of the lattice over
`[-extent, extent]^3` (the vertices of `TetGrid(N - 1, extent)`). A solid is `{volume > level}`;
outside the cube there is nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.float32]


def check_volume(volume: Volume) -> None:
    """Raise ValueError unless a volume is `[N, N, N]` with N at least 2."""
    if volume.ndim != 3 or len(set(volume.shape)) != 1 or volume.shape[0] < 2:
        raise ValueError(f"volume: expected [N, N, N] with N at least 2, got {volume.shape}")


def nearest_true(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Indices `[3, N, N, N]` of the true element nearest to each element."""
    indices = np.empty((3, *mask.shape), np.int32)
    ndimage.distance_transform_edt(
        ~mask, return_distances=False, return_indices=True, indices=indices
    )
    return indices

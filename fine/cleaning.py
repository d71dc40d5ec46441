"""Removing from a volume what nobody wants: floaters outside, voids inside.

"Connected" means by Kuhn edges (14 neighbours) throughout, for the solid and for the empty space:
then the components of `{volume > level}` on the lattice are exactly the components that marching
tetrahedra cuts out of it, which neither 6 nor 26 neighbours give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .volumes import Volume, check_volume, nearest_true

_EVERY_NEIGHBOUR = np.ones((3, 3, 3), dtype=bool)
# A Kuhn edge goes from a vertex to one with each coordinate the same or one more, or back.
_KUHN_NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
_KUHN_NEIGHBOURS[1:, 1:, 1:] = True
_KUHN_NEIGHBOURS[:2, :2, :2] = True


@dataclass(frozen=True)
class FloaterReport:
    """What `remove_floaters` did: components found and kept, and the share of solid removed."""

    found: int
    kept: int
    removed_share: float


def remove_floaters(
    volume: Volume, level: float, keep_share: float = 0.02
) -> tuple[Volume, FloaterReport]:
    """The volume without the small detached parts of `{volume > level}`, and what was done.

    A component stays when it has at least `keep_share` of the largest one's lattice points: a true
    object may have detached parts, such as the cap of a bottle. The others are set to 0 with all
    that lies nearer to them than to what is kept, the faint skirt of a blurred density above all,
    so that no lower level brings them back. Points next to what is kept are left alone, so its
    surface does not move. Raises ValueError for a wrong shape or a share outside [0, 1].
    """
    check_volume(volume)
    if not 0 <= keep_share <= 1:
        raise ValueError(f"keep_share: expected a number in [0, 1], got {keep_share}")
    labels, found = _components(volume > level)
    sizes = np.bincount(labels.reshape(-1), minlength=found + 1)
    sizes[0] = 0  # label 0 is the empty space
    stays = (sizes > 0) & (sizes >= keep_share * sizes.max())
    kept = stays[labels]
    dropped = (labels > 0) & ~kept
    removed = int(dropped.sum())
    if removed:
        x, y, z = nearest_true(labels > 0)
        beside = ndimage.binary_dilation(kept, _EVERY_NEIGHBOUR) & ~dropped
        volume = np.where(kept[x, y, z] | beside, volume, np.float32(0))
    share = removed / max(int(sizes.sum()), 1)
    return volume, FloaterReport(int(found), int(stays.sum()), share)


def fill_cavities(volume: Volume, level: float) -> Volume:
    """The volume with its inner voids made solid: no surface that cannot be seen from outside.

    Lattice points at or below `level` that the empty space around the cube does not reach are set
    to the volume's greatest value. Raises ValueError for a wrong shape.
    """
    check_volume(volume)
    labels, found = _components(np.pad(volume <= level, 1, constant_values=True))
    if found == 1:
        return volume
    inner = labels[1:-1, 1:-1, 1:-1]
    return np.where((inner > 0) & (inner != labels[0, 0, 0]), volume.max(), volume)


def _components(solid: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Labels 1, 2, ... of the components by Kuhn edges, 0 elsewhere, and their number."""
    labels = np.empty(solid.shape, np.int32)
    return labels, int(ndimage.label(solid, _KUHN_NEIGHBOURS, output=labels))  # type: ignore[call-overload]

"""How many faces a shape needs."""

from __future__ import annotations

import numpy as np

from ...common.scene.mesh import Mesh
from .clean import decimate
from .source import distance_between

FEWEST, MOST = 5_000, 50_000
ERROR_SHARE = 0.0007  # of the diagonal of the bounding box
STEP = 0.6  # each try has this share of the faces of the one before


def decimated_by_shape(mesh: Mesh, error_share: float = ERROR_SHARE) -> Mesh:
    """The mesh with as few faces as keep its surface, between FEWEST and MOST.

    error_share: how far the two surfaces may lie apart anywhere, of the bounding box's diagonal. A
    mesh with fewer faces than FEWEST is returned as it is.
    """
    box = np.ptp(mesh.vertices.numpy(), axis=0)
    allowed = error_share * float(np.linalg.norm(box))
    small, wanted = decimate(mesh, MOST), MOST
    while wanted > FEWEST:
        wanted = max(int(wanted * STEP), FEWEST)
        fewer = decimate(small, wanted)
        if fewer is small:
            continue
        if max(distance_between(mesh, fewer), distance_between(fewer, mesh)) > allowed:
            break
        small = fewer
    return small

"""Losses that keep a surface fair: neighbouring faces alike, vertices even, no stray sign changes.

All are pure functions of tensors, differentiable in vertices or field; connectivity has no
gradient. Faces are int64 `[F, 3]`, counter-clockwise seen from outside.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.scene.mesh import adjacent_faces


def normal_consistency(vertices: Tensor, faces: Tensor) -> Tensor:
    """Mean of `1 - cos` between the normals of faces that share an edge, a scalar in [0, 2].

    vertices: float `[V, 3]`. faces: int64 `[F, 3]`. Zero for a flat surface and for one without
    neighbouring faces.

    A normal turns faster with its corners the smaller the face, and marching tetrahedra cuts
    slivers of any size. So each pair weighs as much as the smaller of its two areas (as a
    constant), which bounds the gradient; faces without area, which have no normal, weigh nothing.
    Magic3D (Lin 2022, section 4.2) regularises the angles of adjacent faces and gives no formula.
    """
    pairs = adjacent_faces(faces)
    corners = vertices.index_select(0, faces.reshape(-1)).view(-1, 3, 3)
    a, b, c = corners.unbind(1)
    normals = torch.linalg.cross(b - a, c - a)  # length is twice the area
    tiny = torch.finfo(normals.dtype).tiny
    unit = F.normalize(normals, dim=1, eps=tiny)
    left, right = pairs.unbind(1)
    area = normals.detach().norm(dim=1)
    # Where rows were set aside (`common.rooms`), a face beside itself is no pair.
    weight = torch.minimum(area[left], area[right]) * (left != right)
    cosine = (unit.index_select(0, left) * unit.index_select(0, right)).sum(1)
    return (weight * (1 - cosine)).sum() / weight.sum().clamp_min(tiny)


def laplacian_loss(vertices: Tensor, faces: Tensor) -> Tensor:
    """Mean squared length of the uniform Laplacian, a scalar in squared world units.

    vertices: float `[V, 3]`. faces: int64 `[F, 3]`. The Laplacian of a vertex is the mean of its
    neighbours minus itself; vertices of no face count as zero in the sum and not in the mean. Each
    face counts its own edges, so an edge of a border weighs half as much as an inner one; on a
    closed surface this is the mean over neighbours exactly (Desbrun 1999, eq. 8, unit weights).
    """
    a, b, c = faces.unbind(1)
    centre = torch.cat([a, a, b, b, c, c])
    around = torch.cat([b, c, c, a, a, b])
    ones = (centre != around).to(vertices.dtype)  # 0 on the edges of a face that is a point
    neighbours = vertices.index_select(0, around) * ones[:, None]
    total = torch.zeros_like(vertices).index_add(0, centre, neighbours)
    count = torch.zeros_like(vertices[:, 0]).index_add(0, centre, ones).unsqueeze(1)
    used = (count > 0).to(vertices.dtype)
    laplacian = used * (total / count.clamp_min(1) - vertices)
    return laplacian.square().sum() / used.sum().clamp_min(1)


def sdf_sign_loss(sdf: Tensor, edges: Tensor) -> Tensor:
    """Cross-entropy that draws the two ends of each sign-changing edge to one sign, a scalar.

    sdf: float `[V]`, negative inside, zero is outside. edges: int64 `[S, 2]`; those without a
    change of sign are ignored, so `Isosurface.edges` serves as well as all edges of a grid. Zero
    where no edge changes sign.

    `mean over edges of H(sigmoid(s_a), 1[s_b outside]) + H(sigmoid(s_b), 1[s_a outside])`, H the
    binary cross-entropy in nats. Munkberg 2022, eq. 2, which sums; the mean keeps the weight free
    of the resolution. The sigmoid sees the field in the units given: the pull on each value is
    1/2 near zero and up to 1 far away.
    """
    a, b = sdf.index_select(0, edges.reshape(-1)).view(-1, 2).unbind(1)  # [S] each
    changes = ((a < 0) != (b < 0)).to(a.dtype)  # 1 or 0: no look at how many they are
    cross = F.binary_cross_entropy_with_logits(a, (b >= 0).to(a.dtype), changes, reduction="sum")
    cross = cross + F.binary_cross_entropy_with_logits(
        b, (a >= 0).to(b.dtype), changes, reduction="sum"
    )
    return cross / changes.sum().clamp_min(1)

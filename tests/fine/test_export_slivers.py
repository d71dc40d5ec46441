"""Slivers and folds go, and the surface, its topology and its borders stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from maquette.common.scene.mesh import Mesh
from maquette.fine.export.clean import cleaned, decimate, is_closed
from maquette.fine.export.shape import describe_shape, folds, least_angles, slivers
from maquette.fine.export.slivers import GOAL, without_slivers
from maquette.fine.export.source import distance_between
from maquette.fine.isosurface import grid_surface
from maquette.fine.tetgrid import TetGrid

BOUND = 0.002


def ring_of_tetrahedra() -> Mesh:
    """A torus with a sharp rim, as marching tetrahedra cut it: full of slivers."""
    grid = TetGrid(28)
    x, y, z = (grid.vertices() - torch.tensor([0.011, 0.017, 0.013])).unbind(1)
    around = (x.square() + y.square()).sqrt() - 0.55
    surface = grid_surface(grid, torch.maximum(around.square() + z.square() - 0.06, z - 0.1))
    return Mesh(surface.vertices, surface.faces)


def test_slivers_go_and_the_surface_stays() -> None:
    before = ring_of_tetrahedra()
    assert slivers(before) > 0.04
    after = without_slivers(before, BOUND)
    told, was = describe_shape(after), describe_shape(before)
    assert told.slivers < 0.005
    assert told.folds == 0
    assert (told.closed, told.manifold, told.genus) == (was.closed, was.manifold, 1)
    assert max(distance_between(before, after), distance_between(after, before)) < 1.5 * BOUND
    assert after.faces.shape[0] > 0.8 * before.faces.shape[0]


def test_an_export_s_faces_are_sound_at_any_number() -> None:
    """From the model's own count down: hardly a sliver, none folded over, closed as before."""
    whole = cleaned(ring_of_tetrahedra()).mesh
    assert is_closed(whole.faces.numpy())
    for share in (1.0, 0.7, 0.3):
        small = decimate(whole, int(share * whole.faces.shape[0]))
        told = describe_shape(without_slivers(small, BOUND))
        assert told.slivers < 0.005, share
        assert told.folds == 0, share
        assert told.closed, share
        assert told.manifold, share


def strip(cap: bool) -> Mesh:
    """A pyramid over a square, and one sliver more: a needle at its top, or a cap at a side."""
    vertices = [[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1]]
    faces = [[0, 2, 1], [0, 3, 2], [1, 2, 4], [2, 3, 4], [3, 0, 4]]
    if cap:  # a vertex all but on the edge 0-1
        vertices.append([0.5, 1e-4, 1e-4])
        faces += [[0, 1, 5], [5, 1, 4], [0, 5, 4]]
    else:
        vertices.append([0.5001, 0.5, 1])
        faces[2:3] = [[1, 2, 5], [5, 2, 4]]
        faces += [[0, 1, 4], [4, 1, 5]]
    return Mesh(torch.tensor(vertices).float(), torch.tensor(faces))


@pytest.mark.parametrize("cap", [True, False])
def test_a_needle_and_a_cap_by_hand(cap: bool) -> None:
    shape = strip(cap)
    assert is_closed(shape.faces.numpy())
    assert least_angles(shape).min() < 0.1
    after = without_slivers(shape, BOUND)
    assert least_angles(after).min() > 2.0 * GOAL
    assert describe_shape(after).genus == 0
    assert trimesh.Trimesh(after.vertices, after.faces, process=False).volume == pytest.approx(
        1 / 3, abs=1e-3
    )


def test_borders_and_sharp_edges_stay() -> None:
    sheet = trimesh.creation.box().subdivide().subdivide()
    open_box = Mesh(
        torch.tensor(sheet.vertices).float(),
        torch.tensor(sheet.faces[sheet.triangles_center[:, 2] < 0.45]),
    )
    after = without_slivers(open_box, BOUND)
    assert torch.equal(after.faces, without_slivers(after, BOUND).faces)
    assert describe_shape(after).border_edges == describe_shape(open_box).border_edges
    assert distance_between(open_box, after) < 1e-6


def test_a_fold_is_counted() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0.2, 0.9, 0.01]])
    assert folds(Mesh(vertices, torch.tensor([[0, 1, 2], [1, 0, 3]]))) == 1
    assert folds(Mesh(vertices, torch.tensor([[0, 1, 2]]))) == 0
    assert np.isclose(least_angles(Mesh(vertices, torch.tensor([[0, 1, 2]]))), 45.0)

"""Floaters go, detached parts stay, inner voids fill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from scipy import ndimage

from maquette.fine.cleaning import fill_cavities, remove_floaters
from maquette.fine.isosurface import grid_surface
from maquette.fine.tetgrid import TetGrid
from tests.reference.volumes import balls, lattice, ramp, sphere


def test_floaters_go_and_detached_parts_stay() -> None:
    body, part, speck = ((0.3, 0, 0), 0.5), ((-0.6, 0, 0), 0.25), ((0.3, 0.8, 0.5), 0.1)
    volume = balls(49, body, part, speck)
    cleaned, report = remove_floaters(volume, 0.5)
    assert (report.found, report.kept) == (3, 2)
    without = balls(49, body, part)
    assert ((cleaned > 0.5) == (without > 0.5)).all()
    near_kept = ndimage.binary_dilation(without > 0.5, np.ones((3, 3, 3)))
    assert (cleaned[near_kept] == volume[near_kept]).all()  # the kept surfaces do not move
    solid = (volume > 0.5).sum()
    assert report.removed_share == pytest.approx(1 - (without > 0.5).sum() / solid)
    # Nothing comes back at a lower level where the speck and its skirt were.
    from_speck = np.linalg.norm(lattice(49) - np.array(speck[0]), axis=1).reshape(volume.shape)
    skirt = (from_speck < 0.19) & (without == 0)
    assert volume[skirt].max() > 0.6
    assert (volume[skirt] > 0).all()
    assert not cleaned[skirt].any()
    _, all_kept = remove_floaters(volume, 0.5, keep_share=0.0)
    assert (all_kept.found, all_kept.kept, all_kept.removed_share) == (3, 3, 0)


def test_a_floater_beside_the_body_leaves_the_body_s_surface() -> None:
    """A dropped point that touches a kept block across a diagonal, in faint fog."""
    volume = np.full((12, 12, 12), 0.3, np.float32)
    volume[2:6, 2:6, 2:6] = 1
    volume[6, 1, 3] = 0.9
    cleaned, report = remove_floaters(volume, 0.5, keep_share=0.1)
    assert (report.found, report.kept) == (2, 1)
    assert cleaned[6, 1, 3] == cleaned[7, 1, 3] == cleaned[6, 0, 3] == 0
    # Nearer to the floater, but an end of edges that the block's surface crosses.
    assert cleaned[6, 1, 2] == cleaned[6, 1, 4] == np.float32(0.3)
    assert (cleaned[1:7, 2:7, 1:7] == volume[1:7, 2:7, 1:7]).all()


def test_components_are_those_of_the_surface() -> None:
    """Points joined by a Kuhn edge are one solid, across the other diagonals they are two."""
    for step, found in (((1, 1, 1), 1), ((1, 1, 0), 1), ((1, -1, 0), 2), ((1, -1, 1), 2)):
        volume = np.zeros((6, 6, 6), np.float32)
        volume[2, 2, 2] = volume[2 + step[0], 2 + step[1], 2 + step[2]] = 1
        _, report = remove_floaters(volume, 0.5)
        surface = grid_surface(TetGrid(5), torch.from_numpy(0.5 - volume).view(-1))
        mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
        assert report.found == found == mesh.body_count


def test_nothing_above_the_level_is_left_alone() -> None:
    volume = np.full((5, 5, 5), 0.1, np.float32)
    cleaned, report = remove_floaters(volume, 0.5)
    assert (cleaned == volume).all()
    assert (report.found, report.kept, report.removed_share) == (0, 0, 0)


def test_cavities_fill_and_open_hollows_do_not() -> None:
    distance = np.abs(sphere(lattice(41))).reshape(41, 41, 41)
    shell = np.clip(1 - distance / 0.2, 0, 1).astype(np.float32)
    filled = fill_cavities(shell, 0.5)
    outside = ndimage.binary_dilation(sphere(lattice(41)).reshape(41, 41, 41) > 0.12)
    assert (filled[outside] == shell[outside]).all()
    assert (filled[sphere(lattice(41)).reshape(41, 41, 41) < 0] > 0.5).all()
    pierced = shell.copy()
    pierced[20, 20, :] = 0  # a hole through the shell's poles
    assert (fill_cavities(pierced, 0.5) == pierced).all()
    solid = ramp(sphere(lattice(41)), 41)
    assert fill_cavities(solid, 0.5) is solid


def test_hollow_at_the_cube_s_face_is_open() -> None:
    volume = np.ones((7, 7, 7), np.float32)
    volume[:4, 3, 3] = 0
    assert (fill_cavities(volume, 0.5) == volume).all()
    volume[0, 3, 3] = 1
    assert (fill_cavities(volume, 0.5) == 1).all()

"""A mesh as the start: its pose, which side is out, its distances, colours and layout."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import trimesh

from maquette.common.config.fields import HashGridConfig
from maquette.common.errors import UserError
from maquette.fine.meshes.data import Material, UserMesh
from maquette.fine.meshes.keep import kept_layout, why_not
from maquette.fine.meshes.orient import oriented
from maquette.fine.meshes.start import color_field, pose_of, signed_distances, start_of
from maquette.fine.tetgrid import TetGrid

GRID = TetGrid(24)


def user_mesh(shape: trimesh.Trimesh, **more) -> UserMesh:
    return UserMesh(np.array(shape.vertices), np.array(shape.faces), "y", **more)


def ball(radius: float = 0.9, subdivisions: int = 3) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def test_every_pose_is_a_rotation_with_front_and_up_where_they_are_said_to_be() -> None:
    for up, sign, axis in product("yz", "+-", "xyz"):
        if up == axis:
            with pytest.raises(UserError, match="up"):
                pose_of(up, f"{sign}{axis}")
            continue
        pose = pose_of(up, f"{sign}{axis}")
        ahead, left, top = (pose.vectors(v) for v in torch.eye(3))
        expected = torch.zeros(3)
        expected["xyz".index(axis)] = 1.0 if sign == "+" else -1.0
        assert torch.equal(ahead, expected)
        assert top.tolist() == [float(a == up) for a in "xyz"]
        torch.testing.assert_close(torch.linalg.cross(top, ahead), left)
    assert pose_of("y", None).axes == (1, 2, 0)  # as the program writes its own files


def test_a_mesh_is_fitted_and_can_be_put_back() -> None:
    shape = ball().apply_scale([100.0, 250.0, 70.0]).apply_translation([1e3, -5e3, 40.0])
    start = start_of(user_mesh(shape))
    assert float(start.mesh.vertices.norm(dim=1).max()) == pytest.approx(0.9, abs=1e-6)
    back = start.pose.points(start.mesh.vertices).numpy()
    np.testing.assert_allclose(back, shape.vertices, atol=1e-3)


def test_a_true_object_stays_where_it_is() -> None:
    from maquette.common.toybox.objects import build

    mesh = build("a red mushroom").mesh
    turned = mesh.vertices[:, [1, 2, 0]].double().numpy()
    start = start_of(UserMesh(turned, mesh.faces.numpy(), "y"))
    torch.testing.assert_close(start.mesh.vertices, mesh.vertices, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_faces_wound_at_random_are_turned_outward(seed: int) -> None:
    shape = trimesh.util.concatenate(
        [ball(0.4).apply_translation([0.5, 0, 0]), ball(0.3).apply_translation([-0.5, 0, 0])]
    )
    flip = np.random.default_rng(seed).random(len(shape.faces)) < 0.5
    mixed = np.where(flip[:, None], shape.faces[:, ::-1], shape.faces)
    found = oriented(np.array(shape.vertices), mixed)
    assert trimesh.Trimesh(shape.vertices, found, process=False).volume == pytest.approx(
        shape.volume
    )


def sphere_distances() -> np.ndarray:
    return (GRID.vertices().norm(dim=1).numpy() - 0.9) / GRID.cell_size


def test_distances_of_a_ball_in_closed_form() -> None:
    found = signed_distances(start_of(user_mesh(ball(0.9, 4))).outward, GRID).numpy()
    true = sphere_distances()
    near = np.abs(true) < 2.0
    np.testing.assert_allclose(found[near], true[near], atol=0.05)
    assert np.array_equal(found[np.abs(true) > 0.1] < 0, true[np.abs(true) > 0.1] < 0)


@pytest.mark.parametrize("damage", ["holes", "inside out", "two that cut each other"])
def test_a_broken_ball_still_has_its_inside(damage: str) -> None:
    shape = ball(0.9, 4)
    faces = np.array(shape.faces)
    vertices = np.array(shape.vertices)
    if damage == "holes":
        faces = faces[np.abs(shape.triangles_center[:, 2]) < 0.75]
    elif damage == "inside out":
        faces = faces[:, ::-1]
    else:
        inner = ball(0.5, 3).apply_translation([0.2, 0, 0])
        faces = np.concatenate([faces, inner.faces + len(vertices)])
        vertices = np.concatenate([vertices, inner.vertices])
    start = start_of(UserMesh(vertices, faces, "y"))
    found = signed_distances(start.outward, GRID).numpy()
    true = sphere_distances()
    away = np.abs(true) > 1.5
    assert ((found < 0) == (true < 0))[away].mean() > 0.995


def test_a_sheet_becomes_a_thin_body() -> None:
    vertices = np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    start = start_of(UserMesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]), "y"))
    found = signed_distances(start.outward, GRID).reshape(25, 25, 25)
    assert bool((found[12, 12] < 0).any())
    assert int((found[12, 12] < 0).sum()) <= 3
    assert not bool((found[0] < 0).any())


def test_colours_begin_the_field() -> None:
    shape = ball()
    red_blue = np.where(shape.vertices[:, :1] > 0, [[0.9, 0.1, 0.1]], [[0.1, 0.1, 0.9]])
    start = start_of(user_mesh(shape, colors=red_blue.astype(np.float32)))
    grid = HashGridConfig(levels=6, log2_entries=12, base_resolution=8, finest_resolution=64)
    field = color_field(start, grid, 16, seed=0)
    ahead = start.mesh.vertices[shape.vertices[:, 0] > 0.3]
    found = torch.sigmoid(field(ahead)).mean(dim=0)
    assert found.tolist() == pytest.approx([0.9, 0.1, 0.1], abs=0.05)
    grey = torch.sigmoid(color_field(start_of(user_mesh(shape)), grid, 16, seed=0)(ahead))
    assert float((grey - 0.5).detach().abs().max()) < 0.05


def square(uv: list[list[float]]) -> UserMesh:
    vertices = np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    corners = np.array(uv, dtype=np.float32)[faces]
    texture = np.full((2, 2, 3), 255, dtype=np.uint8)
    return UserMesh(vertices, faces, "y", uv=corners, materials=[Material((1, 1, 1), texture)])


def test_good_coordinates_are_kept_and_bad_ones_are_not() -> None:
    good = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]
    start = start_of(square(good))
    layout, reason = kept_layout(start, 0.0, 64)
    assert reason == ""
    assert layout.method == "own"
    assert torch.equal(layout.source_vertex[layout.faces], start.mesh.faces)
    torch.testing.assert_close(
        layout.uv[layout.faces], torch.tensor(good)[torch.tensor(start.source.faces)]
    )
    for uv, words in (
        ([[0.1, 0.1], [1.9, 0.1], [1.9, 0.9], [0.1, 0.9]], "leave"),
        ([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.9, 0.1]], "overlap"),
        ([[0.5, 0.5]] * 4, "hardly"),
        ([[0.1, np.nan], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]], "some faces"),
    ):
        start = start_of(square(uv))
        assert words in why_not(start)
        layout, _ = kept_layout(start, 0.0, 64)
        assert layout.method == "fallback"
        assert torch.equal(layout.source_vertex[layout.faces], start.mesh.faces)

"""How many faces, and in which order: the shape kept, the vertex cache used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from maquette.common.scene.mesh import Mesh
from maquette.fine.export import budget
from maquette.fine.export.order import cache_misses, in_cache_order
from maquette.fine.export.source import distance_between
from maquette.fine.export.unwrap import Unwrapped


def shuffled_ball() -> Unwrapped:
    ball = trimesh.creation.icosphere(subdivisions=4)
    faces = np.random.default_rng(0).permutation(ball.faces)
    vertices = torch.tensor(ball.vertices).float()
    return Unwrapped(
        vertices, torch.tensor(faces), vertices[:, :2], torch.arange(len(vertices)), "fallback"
    )


def test_the_cache_in_closed_form() -> None:
    strip = np.array([[0, 1, 2], [2, 1, 3], [2, 3, 4]])
    assert cache_misses(strip) == pytest.approx(5 / 3)
    assert cache_misses(np.array([[0, 1, 2], [3, 4, 5], [0, 1, 2]]), size=6) == 2.0
    assert cache_misses(np.array([[0, 1, 2], [3, 4, 5], [0, 1, 2]]), size=3) == 3.0


def test_neighbours_come_near_each_other_and_nothing_else_changes() -> None:
    before = shuffled_ball()
    after = in_cache_order(before)
    assert cache_misses(before.faces.numpy()) > 2.0
    assert cache_misses(after.faces.numpy()) <= 0.65
    assert torch.equal(after.vertices, before.vertices[after.source_vertex])
    assert torch.equal(after.uv, before.uv[after.source_vertex])
    one, two = (
        np.sort(u.source_vertex[u.faces].numpy() @ [1, 10**4, 10**8]) for u in (before, after)
    )
    assert np.array_equal(one, two)  # the same faces, each beginning with the same corner
    first = np.unique(after.faces.numpy().reshape(-1), return_index=True)[1]
    assert (np.diff(first) > 0).all()


def test_a_plain_shape_needs_few_faces_and_a_rough_one_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "FEWEST", 300)
    monkeypatch.setattr(budget, "MOST", 4000)
    found = []
    for bumps in (0.0, 0.2):
        ball = trimesh.creation.icosphere(subdivisions=4)
        radius = 1.0 + bumps * np.sin(9 * ball.vertices).prod(axis=1)
        vertices = torch.tensor(ball.vertices * radius[:, None]).float()
        mesh = Mesh(vertices, torch.tensor(ball.faces).long())
        small = budget.decimated_by_shape(mesh, 0.004)
        assert 250 <= small.faces.shape[0] <= 4000
        assert distance_between(small, mesh) < 0.004 * 4.0
        found.append(small.faces.shape[0])
    assert found[0] < found[1]
    few = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    assert budget.decimated_by_shape(few) is few

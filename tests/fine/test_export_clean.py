"""Cleaning and decimation: what is dropped, what is mended, and which way faces look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from maquette.common.scene.mesh import Mesh
from maquette.fine.export.clean import clean, cleaned, decimate, without_inner_parts


def mesh_of(*parts: trimesh.Trimesh) -> Mesh:
    whole = trimesh.util.concatenate(list(parts))
    return Mesh(
        torch.tensor(whole.vertices, dtype=torch.float32),
        torch.tensor(whole.faces, dtype=torch.int64),
    )


def ball(radius: float, x: float = 0.0, subdivisions: int = 3) -> trimesh.Trimesh:
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return sphere.apply_translation([x, 0.0, 0.0])


def signed_volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def edge_counts(faces: torch.Tensor) -> np.ndarray:
    edges = np.sort(faces.numpy()[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    return np.unique(edges, axis=0, return_counts=True)[1]


def test_specks_go_and_large_parts_stay() -> None:
    # Areas 1 : 0.25 : 0.0025 of the first ball's.
    mesh = mesh_of(ball(0.4), ball(0.2, 0.7), ball(0.02, -0.7))
    out = clean(mesh, 0.01)
    assert out.faces.shape[0] == 2 * 1280
    assert float(out.vertices[:, 0].min()) == pytest.approx(-0.4, abs=1e-5)
    assert float(out.vertices[:, 0].max()) == pytest.approx(0.9, abs=1e-5)
    assert clean(mesh, 0.0).faces.shape[0] == 3 * 1280
    assert clean(mesh, 0.5).faces.shape[0] == 1280


def test_what_is_dropped_is_told() -> None:
    found = cleaned(mesh_of(ball(0.4), ball(0.02, -0.7), ball(0.03, 0.7)), 0.01)
    assert found.dropped == pytest.approx([0.0056, 0.0025], abs=1e-4)
    assert cleaned(mesh_of(ball(0.4)), 0.01).dropped == ()


def test_of_many_balls_alike_none_is_a_speck() -> None:
    balls = [
        ball(0.03, 0.07 * i, 1).apply_translation([0, 0.07 * k, 0])
        for i in range(12)
        for k in range(10)
    ]
    assert clean(mesh_of(*balls), 0.01).faces.shape[0] == 120 * 80
    speck = ball(0.01, -0.2, 1)
    assert clean(mesh_of(*balls, speck), 0.01).faces.shape[0] == 120 * 80


def test_the_inner_side_of_a_shell_stays_inside() -> None:
    inner = ball(0.3)
    inner.invert()
    shell = mesh_of(ball(0.5), inner)
    expected = 4 / 3 * np.pi * (0.5**3 - 0.3**3)
    assert signed_volume(clean(shell)) == pytest.approx(expected, rel=0.03)
    core = ball(0.1)
    core.invert()  # a solid within the hollow, and wound the wrong way
    expected += 4 / 3 * np.pi * 0.1**3
    assert signed_volume(clean(mesh_of(ball(0.5), inner, core))) == pytest.approx(
        expected, rel=0.03
    )


def test_a_print_has_no_inner_parts() -> None:
    inner = ball(0.3)
    inner.invert()
    for second in (ball(0.3), inner):
        solid, count = without_inner_parts(mesh_of(ball(0.5), second, ball(0.2, 0.8)))
        assert count == 1
        assert signed_volume(solid) == pytest.approx(4 / 3 * np.pi * (0.5**3 + 0.2**3), rel=0.03)
    assert without_inner_parts(mesh_of(ball(0.5)))[1] == 0


def test_many_small_faces_do_not_make_a_part_large() -> None:
    mesh = mesh_of(ball(0.5, subdivisions=2), ball(0.02, 0.8, subdivisions=5))
    assert clean(mesh, 0.01).faces.shape[0] == 320


def test_parts_are_turned_outward_each_by_itself() -> None:
    inside_out = ball(0.3, 0.6)
    inside_out.invert()
    out = clean(mesh_of(ball(0.3, -0.6), inside_out))
    expected = 2 * 4 / 3 * np.pi * 0.3**3
    assert signed_volume(out) == pytest.approx(expected, rel=0.03)


def test_faces_wound_at_random_become_coherent() -> None:
    mesh = mesh_of(ball(0.5))
    flip = torch.rand(mesh.faces.shape[0], generator=torch.Generator().manual_seed(3)) < 0.4
    mixed = torch.where(flip[:, None], mesh.faces.flip(1), mesh.faces)
    assert signed_volume(Mesh(mesh.vertices, mixed)) < 0.3 * signed_volume(mesh)
    out = clean(Mesh(mesh.vertices, mixed))
    assert signed_volume(out) == pytest.approx(signed_volume(mesh), rel=1e-5)


def test_duplicates_are_merged_and_degenerate_faces_go() -> None:
    source = trimesh.creation.box((1.0, 1.0, 1.0))
    soup = torch.tensor(source.vertices[source.faces].reshape(-1, 3), dtype=torch.float32)
    faces = torch.arange(36).view(12, 3)
    faces = torch.cat([faces, faces[:2], torch.tensor([[0, 0, 1], [5, 5, 5]])])
    out = clean(Mesh(soup + 1e-6 * torch.randn(36, 3), faces))
    assert out.vertices.shape[0] == 8
    assert out.faces.shape[0] == 12
    assert (edge_counts(out.faces) == 2).all()


def test_no_edge_keeps_more_than_two_faces() -> None:
    vertices = torch.tensor(
        [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]], dtype=torch.float32
    )
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]])
    assert edge_counts(faces).max() == 3
    out = clean(Mesh(vertices, faces))
    assert edge_counts(out.faces).max() <= 2
    assert out.faces.shape[0] == 3


def test_an_edge_that_pymeshlab_leaves_is_detached() -> None:
    """Two fans that touch along the edge 4-8: its own repair leaves that, and orienting fails."""
    fans = "426 041 240 143 534 548 58a 467 479 498 9d8 4bc 4c8 8db 8b4 8ca"
    faces = torch.tensor([[int(corner, 16) for corner in face] for face in fans.split()])
    vertices = torch.rand(14, 3, generator=torch.Generator().manual_seed(0))
    assert edge_counts(faces).max() == 4
    out = clean(Mesh(vertices, faces), 0.0)
    assert edge_counts(out.faces).max() <= 2
    before, after = (
        torch.sort(m.vertices[m.faces].sum((1, 2))).values for m in (Mesh(vertices, faces), out)
    )
    torch.testing.assert_close(after, before)  # every face is where it was


@pytest.mark.parametrize("seed", range(4))
def test_random_soup_is_survived(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.rand(60, 3, generator=generator)
    faces = torch.randint(60, (200, 3), generator=generator)
    out = clean(Mesh(vertices, faces), 0.0)
    assert out.faces.shape[0] > 150
    assert edge_counts(out.faces).max() <= 2
    assert int(out.faces.max()) < out.vertices.shape[0]


def test_errors_say_what_is_wrong() -> None:
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no faces"):
        clean(empty)
    flat = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="nothing to export"):
        clean(flat)
    with pytest.raises(ValueError, match="finite"):
        clean(Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]])))
    with pytest.raises(ValueError, match="min_component_share"):
        clean(mesh_of(ball(1.0)), 1.5)


def test_decimation_keeps_the_shape() -> None:
    mesh = mesh_of(ball(1.0, subdivisions=4))
    out = decimate(mesh, 1000)
    assert 900 <= out.faces.shape[0] <= 1000
    assert (edge_counts(out.faces) == 2).all()
    radius = out.vertices.norm(dim=1)
    assert float((radius - 1).abs().max()) < 0.01
    assert signed_volume(out) == pytest.approx(4 / 3 * np.pi, rel=0.02)


def test_small_meshes_are_not_decimated() -> None:
    mesh = mesh_of(ball(1.0, subdivisions=2))
    assert decimate(mesh, 320) is mesh
    with pytest.raises(ValueError, match="faces"):
        decimate(mesh, 3)

"""Unwrapping: charts that do not overlap, whatever happens to xatlas."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import torch
import trimesh

from maquette.common.scene.mesh import Mesh, adjacent_faces
from maquette.fine.export import atlas, charts, unwrap
from maquette.fine.export.seams import describe_atlas
from maquette.fine.export.unwrap import Unwrapped

SIZE = 512
INSIDE = 1e-3  # barycentrics above this count as inside; neighbours within a chart share edges


def torus() -> Mesh:
    shape = trimesh.creation.torus(0.6, 0.25, major_sections=48, minor_sections=24)
    return Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces).long())


def box() -> Mesh:
    shape = trimesh.creation.box((1.2, 0.8, 0.5)).subdivide().subdivide()
    return Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces).long())


def rough_ball() -> Mesh:
    shape = trimesh.creation.icosphere(subdivisions=4)
    noise = torch.randn(shape.vertices.shape, generator=torch.Generator().manual_seed(0))
    return Mesh(torch.tensor(shape.vertices).float() + 0.02 * noise, torch.tensor(shape.faces))


def spiral() -> Mesh:
    """A ramp of three turns: seen along any axis it lies above itself."""
    turn = np.linspace(0.0, 6 * np.pi, 200)
    rings = [np.stack([r * np.cos(turn), r * np.sin(turn), 0.04 * turn], 1) for r in (0.5, 1.0)]
    first = np.arange(199)
    quads = np.stack([first, first + 200, first + 201, first + 1], axis=1)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return Mesh(torch.tensor(np.concatenate(rings)).float(), torch.tensor(faces))


MESHES = {"torus": torus, "box": box, "rough": rough_ball, "spiral": spiral}


def owners(unwrapped: Unwrapped, size: int) -> tuple[np.ndarray, int]:
    """The face that has each texel centre well inside, and how often another had it before."""
    owner = np.full((size, size), -1)
    twice = 0
    for index, corners in enumerate((unwrapped.uv.double() * size)[unwrapped.faces].numpy()):
        low = np.maximum(np.floor(corners.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(corners.max(0)).astype(int), size)
        x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        frame = np.concatenate([corners.T, np.ones((1, 3))])
        if abs(np.linalg.det(frame)) < 1e-9:
            continue
        points = np.stack([x.ravel() + 0.5, y.ravel() + 0.5, np.ones(x.size)])
        inside = (np.linalg.solve(frame, points) > INSIDE).all(axis=0)
        row, column = y.ravel()[inside], x.ravel()[inside]
        twice += int((owner[row, column] >= 0).sum())
        owner[row, column] = index
    return owner, twice


def chart_of_faces(faces: torch.Tensor) -> np.ndarray:
    pairs = adjacent_faces(faces).numpy()
    same = np.zeros(faces.shape[0], dtype=np.int64)
    return charts._connected(pairs, same, same)


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("limit", [60.0, 0.0])
def test_charts_do_not_overlap(name: str, limit: float) -> None:
    mesh = MESHES[name]()
    out = unwrap.unwrap(mesh, limit, SIZE)
    assert out.method == ("xatlas" if limit else "fallback")
    assert out.faces.shape == mesh.faces.shape
    assert torch.equal(out.source_vertex[out.faces], mesh.faces)
    assert torch.equal(out.vertices, mesh.vertices[out.source_vertex])
    assert float(out.uv.min()) >= 0.0
    assert float(out.uv.max()) <= 1.0
    owner, twice = owners(out, SIZE)
    assert twice == 0
    assert (owner >= 0).mean() > 0.25  # the texture is used
    a, b, c = out.uv[out.faces].unbind(1)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert float(area.abs().min()) > 0.0  # every face has a place
    # Texels of different charts never touch, not even at corners.
    chart = np.where(owner >= 0, chart_of_faces(out.faces)[owner], -1)
    for rows, columns in ((0, 1), (1, 0), (1, 1)):
        here, there = chart[rows:, columns:], chart[: SIZE - rows, : SIZE - columns]
        assert not ((here >= 0) & (there >= 0) & (here != there)).any()


def test_spiral_needs_cutting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        charts, "doubly_covered", lambda texels, faces, size: np.zeros(len(faces), bool)
    )
    assert owners(unwrap.unwrap(spiral(), 0.0, SIZE), SIZE)[1] > 1000


def test_the_last_resort_is_a_chart_a_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "CUTTING_ROUNDS", 1)
    monkeypatch.setattr(charts, "LAST_ROUNDS", 1)
    out = unwrap.unwrap(spiral(), 0.0, SIZE)
    assert owners(out, SIZE)[1] == 0
    assert int(chart_of_faces(out.faces).max()) + 1 == spiral().faces.shape[0]


def test_a_slow_child_is_stopped() -> None:
    start = time.perf_counter()
    out = unwrap.unwrap(torus(), 0.02, SIZE)
    assert time.perf_counter() - start < 20.0
    assert out.method == "fallback"
    assert "longer than 0.02 s" in out.reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "ended with code"),
        ("raise MemoryError('too big')", "MemoryError: too big"),
    ],
)
def test_a_crashing_child_is_survived(
    code: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unwrap, "CHILD", ("-c", code))
    out = unwrap.unwrap(box(), 30.0, SIZE)
    assert out.method == "fallback"
    assert reason in out.reason


def test_an_unfit_atlas_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    swap = (
        "import sys, runpy, numpy as np; sys.argv = sys.argv[:]; "
        "runpy.run_module('fine.export.atlas', run_name='__main__'); "
        "p = sys.argv[1] + '/uv.npy'; np.save(p, np.load(p)[1:])"
    )
    monkeypatch.setattr(unwrap, "CHILD", ("-c", swap))
    out = unwrap.unwrap(box(), 30.0, SIZE)
    assert out.method == "fallback"
    assert "does not fit" in out.reason


def test_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert unwrap.unwrap(box(), 30.0, SIZE).method == "fallback"


def test_no_chart_is_mirrored() -> None:
    for limit in (60.0, 0.0):
        out = unwrap.unwrap(torus(), limit, SIZE)
        a, b, c = out.uv[out.faces].unbind(1)
        signed = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
        assert float(signed.min()) > 0.0


def test_smaller_levels_mix_no_charts() -> None:
    shape = trimesh.creation.torus(0.6, 0.25, major_sections=96, minor_sections=48)
    mesh = Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces).long())
    report = describe_atlas(unwrap.unwrap(mesh, 60.0, 2048), 2048)
    assert report.charts < 40
    assert report.mixed[:3] == [0.0, 0.0, 0.0]
    assert report.mixed[3] <= 0.001
    assert report.mixed[4] <= 0.005
    assert report.mixed[5] <= 0.05
    assert 1.0 <= report.stretch < 1.1
    assert report.use > 0.5
    assert unwrap.padding_for(2048) > 4 == unwrap.padding_for(256)


def test_crumbs_join_their_neighbours() -> None:
    mesh = rough_ball()
    vertices, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    pairs = adjacent_faces(mesh.faces).numpy()
    normals = charts._unit_normals(vertices, faces)
    before = charts.chart_directions(normals, pairs)
    after = charts.without_crumbs(before, normals, pairs)
    alone = np.zeros(len(faces), dtype=np.int64)
    one, two = (int(charts._connected(pairs, d, alone).max()) + 1 for d in (before, after))
    assert two < 0.7 * one
    kept = (normals * charts.DIRECTIONS[after]).sum(axis=1)
    assert kept[after != before].min() >= charts.CRUMB_COSINE
    flat = box()
    pairs = adjacent_faces(flat.faces).numpy()
    normals = charts._unit_normals(flat.vertices.double().numpy(), flat.faces.numpy())
    before = charts.chart_directions(normals, pairs)
    assert np.array_equal(charts.without_crumbs(before, normals, pairs), before)


def test_an_overhang_costs_a_chart_little() -> None:
    """What a leaning bump hides is cut out of the ground below it; the rest stays one chart."""
    x, y = (a.reshape(-1) for a in np.meshgrid(*(np.linspace(-1, 1, 41),) * 2, indexing="ij"))
    height = 0.4 * np.exp(-(x**2 + y**2) / 0.03)
    first = np.arange(40 * 41).reshape(40, 41)[:, :-1].reshape(-1)
    quads = np.stack([first, first + 41, first + 42, first + 1], axis=1)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    found = charts.flat_charts(np.stack([x + 2.0 * height, y, height], axis=1), faces, SIZE)
    size = np.bincount(found.chart_of[found.faces[:, 0]])
    assert len(size) < 20
    assert size.max() > 0.9 * len(faces)
    assert not charts.doubly_covered(2.0 * found.texels, found.faces, 2 * SIZE).any()


def test_few_charts_are_packed_in_several_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = torus()
    found = charts.flat_charts(mesh.vertices.double().numpy(), mesh.faces.numpy(), SIZE)
    flat, chart_of = atlas.turned(found.texels, found.chart_of, 1), found.chart_of
    for chart in range(int(chart_of.max()) + 1):  # each is turned by quarters, none mirrored
        before, after = (x[chart_of == chart] for x in (found.texels, flat))
        one, two = before - before[0], after - after[0]
        product = (one[:, 0] + 1j * one[:, 1]).conj() @ (two[:, 0] + 1j * two[:, 1])
        assert abs(product) == pytest.approx(np.square(one).sum())
        assert np.angle(product) / (np.pi / 2) % 1 == pytest.approx(0.0, abs=1e-6)
    used = []
    for tries in (1, 6):
        monkeypatch.setattr(atlas, "TRIES", tries)
        uv = atlas.packed(found.texels, found.faces, chart_of, SIZE, 5)
        assert (uv.min(), uv.max()) >= (0.0, 0.5)
        a, b, c = np.moveaxis(uv[found.faces], 1, 0)
        one, two = b - a, c - a
        used.append(0.5 * (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum())
    assert used[1] >= used[0]


def test_many_charts_lie_closer_together() -> None:
    few = charts.flat_charts(box().vertices.double().numpy(), box().faces.numpy(), 2048)
    assert unwrap.padding_for(2048, few) == 20
    starts = np.arange(0, 4000)
    texels = np.stack([starts % 60 * 30.0, starts // 60 * 25.0], axis=1).repeat(3, axis=0)
    texels[1::3] += [25.0, 0.0]
    texels[2::3] += [0.0, 20.0]
    none = np.zeros((0, 3), dtype=np.int64)
    many = charts.Charts(texels, none, none[:, 0], starts.repeat(3), texels)
    assert unwrap.padding_for(2048, many) == 6


def test_vertices_that_were_left_out_follow_their_chart() -> None:
    flat = np.random.default_rng(0).random((6, 2))
    chart_of = np.array([0, 0, 0, 0, 0, 1])
    uv = 0.3 * flat + [0.1, 0.4]
    known = uv.copy()
    known[[4, 5]] = np.nan
    found = atlas.placed_like_their_charts(flat, chart_of, known)
    np.testing.assert_allclose(found[:5], uv[:5], atol=1e-12)
    assert found[5].tolist() == [0.0, 0.0]


def test_folds_are_moved_to_a_strip_of_their_own() -> None:
    mesh = rough_ball()
    vertices, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    uv, out_faces, source = charts.planar_charts(vertices, faces, SIZE)
    assert charts.separate(vertices, uv, out_faces, source, SIZE)[0] is uv  # nothing to mend
    first = uv[out_faces[:20]].mean(axis=1)
    # Twenty faces onto twenty others.
    where = {int(v): first[i] for i, face in enumerate(out_faces[-20:]) for v in face}
    folded = uv.copy()
    folded[list(where)] = 0.9 * np.array(list(where.values())) + 0.1 * uv[list(where)]
    places = [torch.from_numpy(x) for x in (vertices[source], out_faces, folded, source)]
    before = owners(Unwrapped(*places, "xatlas"), SIZE)[1]
    assert before > 500
    mended = charts.separate(vertices, folded, out_faces, source, SIZE)
    assert mended is not None
    uv, out_faces, source = mended
    assert np.array_equal(source[out_faces], faces)
    places = [torch.from_numpy(x) for x in (vertices[source], out_faces, uv, source)]
    assert owners(Unwrapped(*places, "xatlas"), SIZE)[1] == 0
    assert uv.min() >= 0.0
    assert uv.max() <= 1.0
    assert np.array_equal(np.unique(out_faces), np.arange(uv.shape[0]))  # none is left over
    # An atlas folded over itself like a sheet of paper is beyond mending.
    assert charts.separate(vertices, np.abs(2.0 * uv - 1.0), out_faces, source, SIZE) is None


def test_faces_without_area_have_a_place() -> None:
    ball = rough_ball()
    a, b = ball.faces[7, :2].tolist()
    vertices = torch.cat([ball.vertices, ball.vertices[a : a + 1]])
    faces = torch.cat([ball.faces, torch.tensor([[a, b, len(vertices) - 1], [a, a, b]])])
    out = unwrap.unwrap(Mesh(vertices, faces), 60.0, SIZE)
    assert out.method == "xatlas"
    assert torch.equal(out.source_vertex[out.faces], faces)
    assert bool(out.uv.isfinite().all())
    assert owners(out, SIZE)[1] == 0


def test_welding_undoes_the_seams() -> None:
    mesh = box()
    out = unwrap.unwrap(mesh, 0.0, SIZE)
    assert out.vertices.shape[0] > mesh.vertices.shape[0]
    welded = out.welded()
    assert torch.equal(welded.vertices, mesh.vertices)
    assert torch.equal(welded.faces, mesh.faces)
    normals = out.normals()
    corner = normals[(out.vertices == out.vertices.max(0).values).all(dim=1)]
    assert corner.shape[0] == 3  # three charts meet there, with one normal
    assert torch.equal(corner, corner[:1].expand(3, 3))
    assert float((normals * out.vertices).sum(1).min()) > 0.0
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(normals.shape[0]))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least one face"):
        unwrap.unwrap(Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64)))
    with pytest.raises(ValueError, match="texture_size"):
        unwrap.unwrap(box(), 0.0, 8)
    with pytest.raises(ValueError, match="too few"):
        charts.pack(np.random.default_rng(0).random((3000, 2)), np.arange(1000).repeat(3), 16, 16)

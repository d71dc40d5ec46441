"""Scores in closed form: planes, balls in balls, known silhouettes and known errors."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import trimesh
from torch import Tensor

from maquette.common.rasterize import Raster, interpolate
from maquette.common.scene.mesh import Mesh
from maquette.common.toybox.objects import ToyObject, build
from maquette.common.toybox.score import (
    TOLERANCE,
    Scores,
    Textured,
    psnr,
    score,
    surface_scores,
    view_scores,
    visible_points,
)

PAINT = torch.tensor([0.2, 0.6, 0.4])


def sphere(radius: float, detail: int = 4) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=detail, radius=radius)
    return Mesh(torch.tensor(made.vertices).float(), torch.tensor(made.faces).long())


def joined(one: Mesh, two: Mesh) -> Mesh:
    return Mesh(
        torch.cat([one.vertices, two.vertices]),
        torch.cat([one.faces, two.faces + one.vertices.shape[0]]),
    )


def ball_toy(radius: float) -> ToyObject:
    mesh = sphere(radius)
    zero = torch.zeros(mesh.faces.shape[0], dtype=torch.long)
    return dataclasses.replace(
        build("a red mushroom"),
        mesh=mesh,
        part_of_face=zero,
        paint_of_face=zero,
        paints=PAINT[None],
    )


def painted(mesh: Mesh, color: Tensor = PAINT) -> Textured:
    return Textured(mesh, lambda raster: color.expand(raster.pixels.shape[0], 3))


def own_look(toy: ToyObject, mesh: Mesh | None = None) -> Textured:
    """A toy as a model of itself, or its paints on another mesh of the same faces."""
    shape = mesh or toy.mesh

    def colors(raster: Raster) -> Tensor:
        return toy.albedo(interpolate(toy.mesh.vertices, raster), raster.face)

    return Textured(shape, colors)


def plane(height: float, side: int = 40) -> Tensor:
    line = torch.linspace(0, 1, side)
    grid = torch.cartesian_prod(line, line)
    return torch.cat([grid, torch.full((side * side, 1), height)], dim=-1)


@pytest.mark.parametrize(("gap", "f"), [(0.0, 1.0), (0.029, 1.0), (0.031, 0.0), (0.5, 0.0)])
def test_parallel_planes(gap: float, f: float) -> None:
    found, chamfer = surface_scores(plane(gap), plane(0.0))
    assert found == f
    assert chamfer == pytest.approx(gap, abs=1e-6)


def test_half_a_plane_has_full_precision_and_half_recall() -> None:
    whole = plane(0.0)
    half = whole[whole[:, 0] < 0.5]
    # Recall also counts what lies within the tolerance of the half: one row of 40 here.
    recall = (20 + 1) / 40
    f, chamfer = surface_scores(half, whole, tolerance=1.5 / 39)
    assert f == pytest.approx(2 * recall / (1 + recall))
    # The k-th row of the other half is k rows away: mean over all is (1 + ... + 20) / 40 rows.
    assert chamfer == pytest.approx(0.5 * (210 / 40) / 39, rel=1e-4)
    assert surface_scores(whole, half, 1.5 / 39) == pytest.approx((f, chamfer))


def test_precision_and_recall_are_not_the_same() -> None:
    truth = plane(0.0)
    stray = torch.cat([truth, plane(1.0), plane(2.0), plane(3.0)])
    f, chamfer = surface_scores(stray, truth)
    assert f == pytest.approx(2 * 0.25 * 1 / 1.25)
    assert chamfer == pytest.approx(0.5 * (0 + 1 + 2 + 3) / 4)


@pytest.mark.parametrize(("other", "f"), [(0.82, 1.0), (0.9, 0.0)])
def test_concentric_balls(other: float, f: float) -> None:
    one, two = (visible_points(sphere(r, 5), 20_000) for r in (0.8, other))
    found, chamfer = surface_scores(one, two)
    assert found == pytest.approx(f, abs=0.005)
    # Nearest samples aren't exactly radial: a little more than the gap.
    assert other - 0.8 <= chamfer + 1e-3
    assert chamfer < other - 0.8 + 0.004


def test_only_what_can_be_seen_counts() -> None:
    both = joined(sphere(0.9), sphere(0.5))
    points = visible_points(both, 20_000)
    assert float(points.norm(dim=-1).min()) > 0.88
    # The inner ball had its share of the area.
    share = 0.81 / (0.81 + 0.25)
    assert points.shape[0] == pytest.approx(20_000 * share, rel=0.02)
    assert visible_points(sphere(0.9), 20_000).shape[0] > 19_900


def test_a_cavity_that_opens_outwards_is_seen() -> None:
    """Without its upper cap a bowl shows its inner side, and both sides of it are one surface."""
    bowl = sphere(0.9)
    keep = bowl.vertices[bowl.faces].mean(dim=1)[:, 2] < 0.3
    points = visible_points(Mesh(bowl.vertices, bowl.faces[keep]), 5_000)
    assert points.shape[0] > 4_900


def test_a_toy_scored_against_itself_is_perfect() -> None:
    toy = build("a red mushroom")
    found = score(own_look(toy), toy)
    assert found == Scores(f_score=1.0, chamfer=0.0, iou=1.0, psnr=100.0)


def test_inner_surfaces_change_no_score() -> None:
    toy = ball_toy(0.8)
    found = score(painted(joined(toy.mesh, sphere(0.5))), toy)
    assert found.f_score == pytest.approx(1.0, abs=1e-3)
    assert found.chamfer < 0.01
    assert found.iou == 1.0
    assert found.psnr == pytest.approx(100.0)


def test_a_shifted_toy_loses_as_far_as_it_is_shifted() -> None:
    toy = build("a red mushroom")

    def shifted(by: float) -> Scores:
        offset = torch.tensor([0.0, by, 0.0])
        return score(own_look(toy, Mesh(toy.mesh.vertices + offset, toy.mesh.faces)), toy)

    small, large = shifted(0.5 * TOLERANCE), shifted(0.3)
    assert small.f_score > 0.99
    assert 0.2 < large.f_score < 0.6 < small.f_score
    assert small.chamfer < 0.5 * TOLERANCE
    assert 0.05 < large.chamfer < 0.3
    assert 0.95 < small.iou < 0.999
    assert large.iou < 0.75
    assert small.psnr > large.psnr + 5


def test_the_iou_of_concentric_balls_is_that_of_their_discs() -> None:
    # A ball of radius r at distance 3 covers a disc of area ~ r^2 / (9 - r^2).
    small, large = 0.6, 0.8
    wanted = (small**2 / (9 - small**2)) / (large**2 / (9 - large**2))
    iou, _ = view_scores(painted(sphere(small)), ball_toy(large))
    assert iou == pytest.approx(wanted, rel=0.01)
    again, _ = view_scores(painted(sphere(large)), ball_toy(small))
    assert again == pytest.approx(iou, rel=0.01)


def test_the_psnr_of_a_wrong_paint_is_its_share_of_the_picture() -> None:
    toy = ball_toy(0.8)
    radius = 0.8 / math.sqrt(9 - 0.64) / math.tan(math.radians(20)) / 2  # in pictures
    for error in (0.1, 0.3):
        _, found = view_scores(painted(toy.mesh, PAINT + error), toy)
        wanted = -10 * math.log10(math.pi * radius**2 * error**2)
        assert found == pytest.approx(wanted, abs=0.2)


def test_psnr_by_hand() -> None:
    image = torch.full((4, 4, 3), 0.5)
    assert psnr(image, image) == 100.0
    assert psnr(image + 0.1, image) == pytest.approx(20.0, abs=1e-4)
    half = image.clone()
    half[:2] += 0.2
    assert psnr(half, image) == pytest.approx(-10 * math.log10(0.02), abs=1e-4)

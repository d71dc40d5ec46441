"""Toys are taken for themselves; a face on the back is counted."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from maquette.common.rasterize import Raster, interpolate
from maquette.common.scene.mesh import Mesh
from maquette.common.toybox.grammar import Caption, parse
from maquette.common.toybox.objects import ToyObject, build
from maquette.common.toybox.recognize import LOOKS, janus_views, nearest_category, nearest_color
from maquette.common.toybox.score import Textured


def look(toy: ToyObject, mesh: Mesh | None = None) -> Textured:
    """A toy as a model of itself, or its paints on another mesh of the same faces."""
    shape = mesh or toy.mesh
    return Textured(shape, lambda r: toy.albedo(own_points(toy, r), r.face))


def own_points(toy: ToyObject, raster: Raster) -> torch.Tensor:
    return interpolate(toy.mesh.vertices, raster)


@pytest.mark.parametrize("category", ["cat", "dog", "table", "ice cream"])
def test_a_toy_is_taken_for_its_category(category: str) -> None:
    assert nearest_category(look(build(Caption(category, "blue"), instance=3))) == category


@pytest.mark.parametrize(
    "text", ["a red mug", "a black truck", "a striped blue and white cat", "a white and red rocket"]
)
def test_a_toy_is_taken_for_its_colour(text: str) -> None:
    caption = parse(text)
    assert nearest_color(look(build(caption)), caption) == caption.color


@pytest.mark.parametrize("category", ["cat", "duck", "car", "chair"])
def test_a_toy_has_its_face_in_front_alone(category: str) -> None:
    toy = build(Caption(category, "orange"))
    assert janus_views(look(toy), toy) == 0


@pytest.mark.parametrize("category", ["cat", "duck", "chair"])
def test_a_toy_that_is_turned_shows_its_face_behind(category: str) -> None:
    toy = build(Caption(category, "orange"))
    turned = dataclasses.replace(
        toy.mesh, vertices=toy.mesh.vertices * torch.tensor([-1.0, -1.0, 1.0])
    )
    assert janus_views(look(toy, turned), toy) >= LOOKS // 2


def test_what_looks_the_same_from_all_sides_has_no_face() -> None:
    toy = build("a red table")
    assert janus_views(look(toy), toy) == 0

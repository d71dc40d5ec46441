"""The truth of a caption: its mesh, its parts and paints, and its albedo at any surface point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..scene.mesh import Mesh, face_normals, opposite_vertices, vertex_normals
from . import animals, things, vehicles
from .clay import PRIMARY, SECONDARY, Clay, accent
from .finishes import finish
from .grammar import COLORS, PARTNERS, Caption, parse
from .patterns import Kind, Pattern, make_pattern

RADIUS = 0.9
"""Distance of every object's farthest vertex from the origin."""


@dataclass(frozen=True)
class Recipe:
    """How a category is made: what kneads it, its second paint by default, its stripes' axis."""

    knead: Callable[[Clay], None]
    second: str
    stripes: int = 2


RECIPES: dict[str, Recipe] = {
    "airplane": Recipe(vehicles.airplane, "cream", stripes=0),
    "bear": Recipe(animals.bear, "cream"),
    "birdhouse": Recipe(things.birdhouse, "terracotta"),
    "boat": Recipe(vehicles.boat, "cream"),
    "cactus": Recipe(things.cactus, "terracotta"),
    "car": Recipe(vehicles.car, "cream", stripes=0),
    "castle": Recipe(things.castle, "slate"),
    "cat": Recipe(animals.cat, "cream"),
    "chair": Recipe(things.chair, "cream"),
    "cupcake": Recipe(things.cupcake, "waffle"),
    "dog": Recipe(animals.dog, "cocoa", stripes=0),
    "duck": Recipe(animals.duck, "tangerine"),
    "elephant": Recipe(animals.elephant, "rose", stripes=0),
    "fish": Recipe(animals.fish, "gold", stripes=0),
    "house": Recipe(things.house, "terracotta"),
    "ice cream": Recipe(things.ice_cream, "cream"),
    "lamp": Recipe(things.lamp, "wood"),
    "mug": Recipe(things.mug, "cream"),
    "mushroom": Recipe(things.mushroom, "cream"),
    "owl": Recipe(animals.owl, "cream"),
    "penguin": Recipe(animals.penguin, "snow"),
    "rabbit": Recipe(animals.rabbit, "cream"),
    "robot": Recipe(things.robot, "silver"),
    "rocket": Recipe(vehicles.rocket, "tomato"),
    "snowman": Recipe(things.snowman, "tomato"),
    "sofa": Recipe(things.sofa, "cream", stripes=1),
    "table": Recipe(things.table, "cream", stripes=1),
    "teapot": Recipe(things.teapot, "cream"),
    "train": Recipe(vehicles.train, "tomato", stripes=0),
    "tree": Recipe(things.tree, "wood"),
    "truck": Recipe(vehicles.truck, "gold", stripes=0),
    "turtle": Recipe(animals.turtle, "leaf"),
}


@dataclass(frozen=True)
class ToyObject:
    """A textured object whose truth is known.

    caption: what it is. mesh: a union of closed parts, Z up, front along +X, bounding box about
    the origin, farthest vertex at RADIUS.
    part_of_face, paint_of_face: int64 `[F]`; paint 0 is the caption's main colour.
    paints: `[P, 3]` sRGB. other: `[3]`, the pattern's other colour. pattern: None if plain.
    finishes: `[P, 2]`, roughness and metallic of each paint.
    """

    caption: Caption
    mesh: Mesh
    part_of_face: Tensor
    paint_of_face: Tensor
    paints: Tensor
    other: Tensor
    pattern: Pattern | None
    finishes: Tensor

    @cached_property
    def normals(self) -> Tensor:
        """Smooth unit normals of the vertices, `[V, 3]`."""
        return vertex_normals(self.mesh.vertices, self.mesh.faces)

    @cached_property
    def opposite(self) -> Tensor:
        """The vertex across each edge, int64 `[F, 3]`, as antialiasing wants it."""
        return opposite_vertices(self.mesh.faces)

    def albedo(self, points: Tensor, faces: Tensor) -> Tensor:
        """sRGB-encoded colours `[N, 3]` in [0, 1] at `points` `[N, 3]` on `faces` (int64 `[N]`).

        A function of the point, with no texture behind it: sharp at any resolution.
        """
        paint = self.paint_of_face[faces]
        colors = self.paints[paint]
        if self.pattern is None:
            return colors
        main = (paint == 0).nonzero()[:, 0]
        normals = face_normals(self.mesh.vertices, self.mesh.faces[faces[main]])
        covered = self.pattern.covers(points[main], normals)
        return colors.index_put((main[covered],), self.other)

    def finish(self, faces: Tensor) -> Tensor:
        """Roughness and metallic `[N, 2]` in [0, 1] of points on `faces` (int64 `[N]`)."""
        return self.finishes[self.paint_of_face[faces]]

    def to(self, device: torch.device | str) -> ToyObject:
        """The same object with its tensors on `device`."""
        return replace(
            self,
            mesh=self.mesh.to(device),
            part_of_face=self.part_of_face.to(device),
            paint_of_face=self.paint_of_face.to(device),
            paints=self.paints.to(device),
            other=self.other.to(device),
            pattern=None if self.pattern is None else self.pattern.to(device),
            finishes=self.finishes.to(device),
        )


def build(caption: Caption | str, instance: int = 0) -> ToyObject:
    """The object of a caption.

    instance: 0 is canonical; other numbers vary the proportions by up to a fifth, the same way on
    every machine and for every colour. Raises UserError for a prompt outside the grammar and
    ValueError for a negative instance.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    recipe = RECIPES[caption.category]
    mesh, part_of_face, names = _geometry(caption.category, instance)
    palette = list(dict.fromkeys([PRIMARY, *names]))
    paint_of_part = torch.tensor([palette.index(name) for name in names])
    paint_of_face = paint_of_part[part_of_face]
    return ToyObject(
        caption=caption,
        mesh=mesh,
        part_of_face=part_of_face,
        paint_of_face=paint_of_face,
        paints=torch.tensor([_color(name, caption, recipe) for name in palette]),
        other=torch.tensor(COLORS[caption.second or PARTNERS[caption.color]]),
        pattern=_pattern(caption, recipe, mesh, paint_of_face == 0),
        finishes=torch.tensor([finish(caption.category, name) for name in palette]),
    )


@lru_cache(maxsize=128)
def _geometry(category: str, instance: int) -> tuple[Mesh, Tensor, tuple[str, ...]]:
    """An object without colours: its mesh, the part of each face, the paint's name of each part.

    Kept, since the same shape comes back in every colour.
    """
    clay = Clay(category, instance)
    RECIPES[category].knead(clay)
    solids = [solid for _, solid in clay.parts]
    starts = np.cumsum([0, *(len(solid.vertices) for solid in solids[:-1])])
    faces = np.concatenate([s.faces + start for s, start in zip(solids, starts, strict=True)])
    vertices = _placed(np.concatenate([solid.vertices for solid in solids]))
    sizes = torch.tensor([len(solid.faces) for solid in solids])
    mesh = Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))
    part_of_face = torch.arange(len(solids)).repeat_interleave(sizes)
    return mesh, part_of_face, tuple(name for name, _ in clay.parts)


def _placed(vertices: np.ndarray) -> np.ndarray:
    """Vertices with their bounding box about the origin and the farthest at RADIUS, float32."""
    middle = 0.5 * (vertices.min(axis=0) + vertices.max(axis=0))
    centred = vertices - middle
    scale = RADIUS / np.linalg.norm(centred, axis=-1).max()
    return (centred * scale).astype(np.float32)


def _color(name: str, caption: Caption, recipe: Recipe) -> tuple[float, float, float]:
    """The colour of one paint of an object."""
    if name == PRIMARY:
        return COLORS[caption.color]
    if name == SECONDARY and caption.second is not None and caption.pattern is None:
        return COLORS[caption.second]
    return accent(recipe.second if name == SECONDARY else name, COLORS[caption.color])


def _pattern(caption: Caption, recipe: Recipe, mesh: Mesh, primary: Tensor) -> Pattern | None:
    """The pattern a caption asks for, if any."""
    if caption.pattern is None:
        return None
    return make_pattern(cast(Kind, caption.pattern), recipe.stripes, mesh, primary)

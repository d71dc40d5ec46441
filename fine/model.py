"""The fine stage's model: a deformable tetrahedral grid with a material, and its pictures."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common import rooms
from ..common.config.models import FineConfig
from ..common.errors import UserError
from ..common.fields.field import HashField
from ..common.guidance.judges import Views
from ..common.light.skies import Skies
from ..common.rasterize import antialias, interpolate, rasterize, scatter_image, surface_image
from ..common.runs.loop import Learner
from ..common.scene.cameras import Cameras
from ..common.scene.mesh import Mesh, opposite_vertices, vertex_normals
from .first_shape import FirstShape
from .flexicubes import WEIGHTS, DualSurface, dual_surface
from .isosurface import Backend, Isosurface, grid_surface
from .material import Lighting, Material, lit
from .pbr import pbr_of
from .tetgrid import TetGrid
from .texture import texture_of

AnySurface = Isosurface | DualSurface


class Lattice(nn.Module):
    """A learnable value at every lattice point, or at every cell."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)


class FineModel:
    """DMTet (Shen 2021) or FlexiCubes (Shen 2023): signed distances and offsets on a grid, and a
    texture.

    sdf: `[(R+1)^3]`, negative inside, in units of a cell so that one learning rate suits every
    resolution. offset: `[(R+1)^3, 3]`, raw, see `TetGrid.deform` and `dual_surface`. cells:
    FlexiCubes' weights, `[R^3, 21]`, raw; None for marching tetrahedra.
    """

    def __init__(self, grid: TetGrid, sdf: Tensor, texture: Material) -> None:
        self.grid = grid
        self.sdf = Lattice(sdf)
        self.offset = Lattice(torch.zeros(sdf.shape[0], 3, device=sdf.device))
        self.texture = texture
        self.cells: Lattice | None = None
        self.isosurface: Backend = "own"
        self._boundary = boundary_points(grid.resolution).to(sdf.device)

    @staticmethod
    def begin(shape: FirstShape, config: FineConfig, device: torch.device) -> FineModel:
        """The model of a first shape, before any refinement; a checkpoint may be loaded into it."""
        texture = material_of(shape.color, config)
        model = FineModel(lattice(config), shape.distance.to(device), texture.to(device))
        model.isosurface = config.geometry.isosurface
        if config.isosurface == "flexicubes":
            cells = model.grid.resolution**3
            model.cells = Lattice(torch.zeros(cells, WEIGHTS, device=device))
        return model

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.sdf.value.device

    def learner(self, config: FineConfig) -> Learner:
        """An optimizer with a learning rate of its own for each part."""
        modules = {"sdf": self.sdf, "offset": self.offset, "texture": self.texture}
        if self.cells is not None:
            modules["cells"] = self.cells
        rates = {
            "cells": config.geometry.cell_learning_rate,
            "sdf": config.geometry.sdf_learning_rate,
            "offset": config.geometry.offset_learning_rate,
            "texture": config.texture.learning_rate,
        }
        return Learner(config.optimizer, modules, rates)

    def surface(self, learning: bool = True) -> AnySurface:
        """The surface where the signed distance is zero; UserError if there is none left.

        learning: whether FlexiCubes' quads are given middles, as their weights need to learn.
        """
        # Points on the cube's faces stay outside, so that the surface closes.
        sdf = torch.where(self._boundary, self.sdf.value.clamp_min(0.5), self.sdf.value)
        if self.cells is not None:
            cells = self.cells.value
            with rooms.asking():  # its loops have no rows set aside
                surface = dual_surface(self.grid, sdf, self.offset.value, cells, centred=learning)
        else:
            surface = grid_surface(self.grid, sdf, self.offset.value, self.isosurface)
        if surface.faces.shape[0] == 0:
            raise UserError(
                "the mesh has vanished: no lattice point is inside it any more; try a lower "
                "--set fine.geometry.sdf_learning_rate or another --seed"
            )
        return surface

    @torch.no_grad()
    def check(self) -> None:
        """Raise UserError if there is no surface left, which a step on a GPU does not look at."""
        self.surface()

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The surface as a plain mesh on the CPU."""
        surface = self.surface(learning=False)
        return Mesh(surface.vertices.cpu(), surface.faces.cpu())

    @torch.no_grad()
    def albedo(self, points: Tensor) -> Tensor:
        """Albedo `[N, 3]` of points `[N, 3]`, on the points' own device."""
        device = self.sdf.value.device
        return self.texture(points.to(device)).to(points.device)


class KeptModel:
    """A surface that stays as it is, and a texture that learns."""

    def __init__(self, mesh: Mesh, texture: Material) -> None:
        self.texture = texture
        self._mesh = mesh

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self._mesh.vertices.device

    def learner(self, config: FineConfig) -> Learner:
        """An optimizer of the texture alone."""
        modules = {"texture": self.texture}
        return Learner(config.optimizer, modules, {"texture": config.texture.learning_rate})

    def surface(self) -> Isosurface:
        """The surface; it was cut from no lattice."""
        edges = self._mesh.faces.new_zeros(0, 2)
        return Isosurface(self._mesh.vertices, self._mesh.faces, edges)

    def check(self) -> None:
        """Nothing: the surface stays."""

    def mesh(self) -> Mesh:
        """The surface as a plain mesh on the CPU."""
        return self._mesh.to("cpu")

    @torch.no_grad()
    def albedo(self, points: Tensor) -> Tensor:
        """Albedo `[N, 3]` of points `[N, 3]`, on the points' own device."""
        return self.texture(points.to(self.device)).to(points.device)


AnyModel = FineModel | KeptModel


def begin_model(shape: FirstShape, config: FineConfig, device: torch.device) -> AnyModel:
    """The model of a first shape, before any refinement; a checkpoint may be loaded into it."""
    if shape.kept is None:
        return FineModel.begin(shape, config, device)
    texture = material_of(shape.color, config)
    return KeptModel(shape.kept.to(device), texture.to(device))


def material_of(color: HashField, config: FineConfig) -> Material:
    """The material that a colour field begins as."""
    match config.material:
        case "albedo":
            return texture_of(color, config.texture.extra_levels)
        case "pbr":
            return pbr_of(color, config.texture.extra_levels, config.pbr)
        case _:
            assert_never(config.material)


def lattice(config: FineConfig) -> TetGrid:
    """The tetrahedral grid that a configuration asks for."""
    return TetGrid(config.geometry.resolution, config.geometry.extent)


def boundary_points(resolution: int) -> Tensor:
    """Whether each lattice point lies on the cube's faces, bool `[(R+1)^3]`."""
    inner = torch.zeros(resolution - 1, resolution - 1, resolution - 1, dtype=torch.bool)
    return F.pad(inner, (1,) * 6, value=True).reshape(-1)


def render_surface(
    surface: AnySurface,
    texture: Material,
    cameras: Cameras,
    lights: Lighting,
    resolution: int,
    background: Tensor,
    painting: bool = False,
) -> Views:
    """Lit, antialiased views of a surface; differentiable in shape and texture.

    background: colour `[3]`. painting: whether the views tell what they see of the surface.
    """
    vertices, faces = surface.vertices, surface.faces
    raster = rasterize(vertices, faces, cameras.mvp(), resolution, resolution)
    attributes = torch.cat([vertices, vertex_normals(vertices, faces)], dim=-1)
    points, normals = interpolate(attributes, raster).split(3, dim=-1)
    normals = F.normalize(normals, dim=-1)
    colors = lit(texture, points, normals, cameras, lights, raster.view)
    opposite = opposite_vertices(faces)
    image = antialias(scatter_image(colors, raster, background), raster, opposite)

    def coverage() -> Tensor:
        covered = torch.ones_like(colors[:, :1])
        mask = scatter_image(covered, raster, background[:1] * 0.0)
        return antialias(mask, raster, opposite)[..., 0]

    def geometry() -> tuple[Tensor, Tensor]:
        axis = -F.normalize(cameras.position, dim=-1)[raster.view]
        depth = ((points - cameras.position[raster.view]) * axis).sum(dim=-1, keepdim=True)
        told = torch.cat([depth, normals], dim=-1)
        shown = scatter_image(told, raster, told.new_zeros(4))
        return shown[..., 0], shown[..., 1:]

    seen = surface_image(points, normals, raster) if painting else None
    skies = lights if isinstance(lights, Skies) else None
    return Views(image, cameras, background, coverage, seen, geometry, skies=skies)

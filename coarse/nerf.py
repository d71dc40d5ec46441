"""The NeRF as a scene: field, background and occupancy grid, rendered and regularized."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common import ranks
from ..common.config.models import BackgroundConfig, CoarseConfig, HandoffConfig
from ..common.fields.field import EXTENT, HashField
from ..common.guidance.judges import Views
from ..common.runs.coarse_result import CoarseResult
from ..common.runs.loop import Learner
from ..common.scene.cameras import Cameras, orbit, sphere_views
from ..common.scene.images import to_uint8
from ..common.scene.shading import Lights
from ..common.scene.views import picture_lights, studio_lights
from ..common.schedules import step_schedule
from ..common.watch.looks import Look
from .background import Background
from .field import RadianceField
from .losses import entropy_loss, opacity_loss, orientation_loss
from .occupancy import Occupancy
from .render import Rendered, render_views, seen_surface
from .symmetry import POINTS, points_in_ball, symmetry_loss

LEVELS = (0.5, 500.0)  # densities that may be a surface


class Nerf:
    """A `Scene` of density and albedo in a hash grid (Magic3D, Lin 2023, sec. 4.1)."""

    def __init__(self, config: CoarseConfig, device: torch.device) -> None:
        self.config = config
        self.field = RadianceField(config.field).to(device)
        self.background = Background(config.background).to(device)
        self.occupancy = Occupancy(config.occupancy, config.samples).to(device)
        self.device = device

    def learner(self) -> Learner:
        """An optimizer over all that learns, the background at its own rate."""
        modules = {
            "field": self.field,
            "background": self.background,
            "occupancy": self.occupancy,
        }
        rates = {"background": self.config.background.learning_rate}
        return Learner(self.config.optimizer, modules, rates)

    def prepare(self, step: int) -> None:
        """Look anew at which cells are empty, every few steps."""
        self.occupancy.update(step, self.field.density)

    def render(self, cameras: Cameras, lights: Lights, step: int) -> tuple[Views, Tensor]:
        """Views as `render_views` makes them, and the losses of `CoarseLossConfig`.

        The orientation loss wants normals in every step in which it has a weight, whatever the lamp
        shows then.
        """
        rendered = render_views(
            self.field,
            self.background,
            self.occupancy,
            cameras,
            lights,
            self.config.resolution,
            training=True,
            normals=step_schedule(self.config.losses.orientation, step) != 0.0,
        )

        def look(from_where: Cameras, resolution: int) -> Views:
            lamps = picture_lights(self.config.light, from_where, step)
            return self.views(from_where, lamps, resolution)

        views = Views(rendered.image, cameras, rendered.behind, lambda: rendered.opacity, look=look)
        return views, self.regularize(rendered, step)

    def views(self, cameras: Cameras, lights: Lights, resolution: int) -> Views:
        """Views that tell their geometry, without losses of their own."""
        rendered = render_views(
            self.field,
            self.background,
            self.occupancy,
            cameras,
            lights,
            resolution,
            training=True,
        )

        def geometry() -> tuple[Tensor, Tensor]:
            return surface_geometry(rendered, cameras)

        opacity = rendered.opacity
        return Views(rendered.image, cameras, rendered.behind, lambda: opacity, geometry=geometry)

    def regularize(self, rendered: Rendered, step: int) -> Tensor:
        """The weighted sum of the losses beside what judges say."""
        weights = self.config.losses
        total = step_schedule(weights.opacity, step) * opacity_loss(rendered.opacity)
        total = total + step_schedule(weights.entropy, step) * entropy_loss(rendered.opacity)
        alike = step_schedule(weights.symmetry, step)
        if alike != 0.0:
            points = points_in_ball(POINTS, EXTENT, self.device)
            total = total + alike * symmetry_loss(self.field, points, self.occupancy.step_size)
        facing = step_schedule(weights.orientation, step)
        if facing == 0.0:
            return total
        rays, hits = rendered.normals.shape[0], rendered.hits
        share = ranks.share_of(hits if rays else 0, rendered.opacity.device)
        if rays > 0:
            if isinstance(hits, Tensor):  # a mean over all rays, most of them zero
                share = share * rays / hits.clamp_min(1)
            total = total + facing * share * orientation_loss(
                rendered.normals, rendered.directions, rendered.hit_opacity
            )
        return total

    @torch.no_grad()
    def preview(self, count: int = 4, resolution: int = 128) -> Tensor:
        """Lit views `[count, resolution, resolution, 3]` of the NeRF from around it."""
        return self.look(orbit(count).to(self.device), resolution).image

    @torch.no_grad()
    def pictured(self, cameras: Cameras, resolution: int) -> Look:
        """Lit views before white, with normals and opacity."""
        rendered = self.look(cameras.to(self.device), resolution)
        normals = torch.zeros_like(rendered.image)
        normals[seen_surface(rendered)] = F.normalize(rendered.normals, dim=-1)
        return Look(rendered.image, normals, rendered.opacity)

    @torch.no_grad()
    def judged(self, cameras: Cameras, step: int) -> Views:
        """Lit views at the stage's resolution, before the background's mean colour."""
        cameras = cameras.to(self.device)
        rendered = self.look(cameras, self.config.resolution)
        views = Views(rendered.image, cameras, rendered.behind, lambda: rendered.opacity)
        backdrop = self.backdrop().to(self.device)
        return Views(views.before(backdrop), cameras, backdrop, lambda: rendered.opacity)

    @torch.no_grad()
    def hand_off(self, config: HandoffConfig) -> CoarseResult:
        """Density on a lattice, views, the mean background, and the albedo as a field."""
        cameras = sphere_views(config.views)
        images, opacities = [], []
        for index in range(len(cameras)):
            camera = cameras[index : index + 1].to(self.device)
            rendered = self.look(camera, config.view_resolution)
            images.append(to_uint8(rendered.image))
            opacities.append(rendered.opacity.cpu())
        return CoarseResult(
            images=torch.cat(images),
            opacity=torch.cat(opacities),
            background=self.backdrop(),
            color=albedo_field(self.field.body),
            inside=self.density_lattice(config.resolution),
            levels=LEVELS,
        )

    @torch.no_grad()
    def density_lattice(self, resolution: int) -> Tensor:
        """Densities `[R+1, R+1, R+1]` at the lattice points of the cube, on the CPU."""
        line = torch.linspace(-EXTENT, EXTENT, resolution + 1, device=self.device)
        plane = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)
        density = [
            self.field.density(torch.cat([x.expand(plane.shape[0], 1), plane], dim=-1))
            for x in line
        ]
        return torch.stack(density).reshape(len(line), len(line), len(line)).cpu()

    @torch.no_grad()
    def backdrop(self) -> Tensor:
        """The mean colour `[3]` of the background over all directions."""
        cameras = sphere_views(64).to(self.device)
        axes = -cameras.position[:, None, None, :] / cameras.distance[:, None, None, None]
        return self.background(axes, random=False).mean(dim=(0, 1, 2)).cpu()

    @torch.no_grad()
    def look(self, cameras: Cameras, resolution: int) -> Rendered:
        """Lit views before white, for people."""
        lights = studio_lights(cameras, self.config.light)
        white = Background(BackgroundConfig(kind="solid", color=(1.0, 1.0, 1.0)))
        return render_views(
            self.field, white, self.occupancy, cameras, lights, resolution, training=False
        )


def surface_geometry(rendered: Rendered, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """How far along the camera's axis the expected surface lies, and its normals in the world.

    `[B, H, W]` and `[B, H, W, 3]`, differentiable: a pixel's normal is across the surface through
    its neighbours, so that it says the same of the shape as the depth does. A ray that meets
    nothing gives some value.
    """
    height, width = rendered.opacity.shape[1:]
    origins, directions = cameras.rays(height, width)
    along = rendered.depth / rendered.opacity.clamp_min(1e-3)
    points = origins + along[..., None] * directions
    axis = -F.normalize(cameras.position, dim=-1)[:, None, None]
    depth = ((points - origins) * axis).sum(dim=-1)
    right = F.pad(points[:, :, 2:] - points[:, :, :-2], (0, 0, 1, 1))
    down = F.pad(points[:, 2:] - points[:, :-2], (0, 0, 0, 0, 1, 1))
    return depth, F.normalize(torch.linalg.cross(down, right), dim=-1)


@torch.no_grad()
def albedo_field(body: HashField) -> HashField:
    """The part of a NeRF's field that says its albedo: three logits, on the CPU.

    body: its outputs are the density's logit and three of the albedo.
    """
    with torch.random.fork_rng([]):
        albedo = HashField(body.grid.config, body.hidden.out_features, outputs=3)
    albedo.grid.load_state_dict(body.grid.state_dict())
    albedo.hidden.load_state_dict(body.hidden.state_dict())
    albedo.out.weight.copy_(body.out.weight[1:4])
    albedo.out.bias.copy_(body.out.bias[1:4])
    return albedo.cpu()

"""The coarse stage's model: its learning rates, its losses, and what it hands on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maquette.coarse.losses import entropy_loss, opacity_loss, orientation_loss
from maquette.coarse.render import Rendered, render_views
from maquette.coarse.train import CoarseModel, preview, regularizers, result
from maquette.common.config.models import CoarseConfig, HandoffConfig, build_config
from maquette.common.fields.field import HashField, grid_config
from maquette.common.scene.cameras import orbit, sphere_views
from maquette.common.scene.shading import headlights

SMALL = (
    "coarse.field.grid.levels=3",
    "coarse.field.grid.log2_entries=10",
    "coarse.field.grid.finest_resolution=16",
    "coarse.field.hidden=8",
    "coarse.samples=24",
    "coarse.occupancy.resolution=16",
    "coarse.background.kind=environment",
    "coarse.losses.opacity=2.0",
    "coarse.losses.entropy=0.5",
    "coarse.losses.orientation=[[0, 10], [100, 1000]]",
)


def small_config() -> CoarseConfig:
    return build_config("a red mushroom", overrides=SMALL).coarse


@pytest.fixture(scope="module")
def model() -> CoarseModel:
    torch.manual_seed(0)
    made = CoarseModel(small_config(), torch.device("cpu"))
    with torch.no_grad():  # no symmetric blob, as a new field is
        made.field.body.grid.tables.uniform_(-2, 2)
        made.field.body.out.weight.mul_(3)
    return made


def views(model: CoarseModel) -> Rendered:
    cameras = orbit(2)
    lights = headlights(cameras.position, 0.3)
    return render_views(
        model.field, model.background, model.occupancy, cameras, lights, 16, training=False
    )


def test_the_background_learns_at_its_own_rate(model: CoarseModel) -> None:
    config = small_config()
    groups = model.learner().optimizer.param_groups
    assert [group["lr"] for group in groups] == [
        config.optimizer.learning_rate,
        config.background.learning_rate,
    ]
    assert groups[1]["params"] == list(model.background.parameters())


def test_a_checkpoint_holds_field_background_and_occupancy(model: CoarseModel) -> None:
    names = model.learner().tensors().keys()
    assert {name.split("/")[0] for name in names} == {"field", "background", "occupancy"}
    assert any("occs" in name for name in names)


def test_losses_are_weighed_by_their_schedules(model: CoarseModel) -> None:
    rendered, config = views(model), small_config()
    assert rendered.normals.shape[0] > 10
    for step, orientation in ((0, 10.0), (50, 505.0), (100, 1000.0)):
        wanted = (
            2.0 * opacity_loss(rendered.opacity)
            + 0.5 * entropy_loss(rendered.opacity)
            + orientation
            * orientation_loss(rendered.normals, rendered.directions, rendered.hit_opacity)
        )
        torch.testing.assert_close(regularizers(rendered, config, step), wanted)


@pytest.fixture(scope="module")
def handed(model: CoarseModel) -> dict[str, Tensor]:
    return result(model, HandoffConfig(resolution=16, views=16, view_resolution=32))


def test_the_density_is_read_at_the_lattice_points(model: CoarseModel, handed) -> None:
    density = handed["density"]
    assert density.shape == (17, 17, 17)
    for index in ((8, 8, 8), (12, 8, 3), (2, 9, 15), (0, 0, 16)):
        point = torch.tensor([index], dtype=torch.float32) / 8 - 1
        torch.testing.assert_close(
            density[index], model.field.density(point)[0].detach(), rtol=1e-4, atol=1e-5
        )


def test_the_views_are_those_of_the_sphere(model: CoarseModel, handed) -> None:
    assert handed["images"].shape == (16, 32, 32, 3)
    assert handed["images"].dtype == torch.uint8
    assert handed["opacity"].shape == (16, 32, 32)
    cameras = sphere_views(16)[5:6]
    lights = headlights(cameras.position, 0.35)
    with torch.no_grad():
        rendered = render_views(
            model.field, model.background, model.occupancy, cameras, lights, 32, training=False
        )
    torch.testing.assert_close(handed["opacity"][5], rendered.opacity[0], atol=1e-5, rtol=0)


def test_the_field_can_be_built_again_from_what_is_handed_on(model: CoarseModel, handed) -> None:
    config = small_config().field
    field = HashField(grid_config(config.grid), config.hidden, outputs=4)
    field.load_state_dict({k[6:]: v for k, v in handed.items() if k.startswith("field/")})
    points = torch.rand(50, 3) * 2 - 1
    assert torch.equal(field(points), model.field.body(points))


def test_the_preview_goes_around(model: CoarseModel) -> None:
    images = preview(model, count=3, resolution=24)
    assert images.shape == (3, 24, 24, 3)
    assert 0.0 <= float(images.min()) <= float(images.max()) <= 1.0 + 1e-6

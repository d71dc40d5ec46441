"""The NeRF as a scene: its learning rates, its losses, its views, and what it hands on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maquette.coarse.background import Background
from maquette.coarse.losses import entropy_loss, opacity_loss, orientation_loss
from maquette.coarse.nerf import Nerf
from maquette.coarse.render import Rendered, render_views
from maquette.common.config.models import (
    BackgroundConfig,
    CoarseConfig,
    CoarseLossConfig,
    HandoffConfig,
)
from maquette.common.config.reading import build_config
from maquette.common.fields.field import HashField
from maquette.common.runs.coarse_result import CoarseResult, read_result, write_result
from maquette.common.runs.folder import open_or_create
from maquette.common.scene.cameras import orbit, sphere_views
from maquette.common.scene.shading import ALBEDO, Lights, headlights

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
def model() -> Nerf:
    torch.manual_seed(0)
    made = Nerf(small_config(), torch.device("cpu"))
    with torch.no_grad():  # no symmetric blob, as a new field is
        made.field.body.grid.tables.uniform_(-2, 2)
        made.field.body.out.weight.mul_(3)
    return made


def views(model: Nerf) -> Rendered:
    cameras = orbit(2)
    lights = headlights(cameras.position, 0.3)
    return render_views(
        model.field, model.background, model.occupancy, cameras, lights, 16, training=False
    )


def test_the_background_learns_at_its_own_rate(model: Nerf) -> None:
    config = small_config()
    groups = model.learner().optimizer.param_groups
    assert [group["lr"] for group in groups] == [
        config.optimizer.learning_rate,
        config.background.learning_rate,
    ]
    assert groups[1]["params"] == list(model.background.parameters())


def test_a_checkpoint_holds_field_background_and_occupancy(model: Nerf) -> None:
    names = model.learner().tensors().keys()
    assert {name.split("/")[0] for name in names} == {"field", "background", "occupancy"}
    assert any("occs" in name for name in names)


def test_losses_are_weighed_by_their_schedules(model: Nerf) -> None:
    rendered = views(model)
    assert rendered.normals.shape[0] > 10
    for step, orientation in ((0, 10.0), (50, 505.0), (100, 1000.0)):
        wanted = (
            2.0 * opacity_loss(rendered.opacity)
            + 0.5 * entropy_loss(rendered.opacity)
            + orientation
            * orientation_loss(rendered.normals, rendered.directions, rendered.hit_opacity)
        )
        torch.testing.assert_close(model.regularize(rendered, step), wanted)


@pytest.fixture(scope="module")
def handed(model: Nerf) -> CoarseResult:
    return model.hand_off(HandoffConfig(resolution=16, views=16, view_resolution=32))


def test_the_density_is_read_at_the_lattice_points(model: Nerf, handed: CoarseResult) -> None:
    density = handed.inside
    assert density is not None
    assert handed.levels == (0.5, 500.0)
    assert density.shape == (17, 17, 17)
    for index in ((8, 8, 8), (12, 8, 3), (2, 9, 15), (0, 0, 16)):
        point = torch.tensor([index], dtype=torch.float32) / 8 - 1
        torch.testing.assert_close(
            density[index], model.field.density(point)[0].detach(), rtol=1e-4, atol=1e-5
        )


def test_the_views_are_those_of_the_sphere(model: Nerf, handed: CoarseResult) -> None:
    assert handed.images.shape == (16, 32, 32, 3)
    assert handed.images.dtype == torch.uint8
    assert handed.opacity.shape == (16, 32, 32)
    cameras = sphere_views(16)[5:6]
    lights = headlights(cameras.position, 0.35)
    with torch.no_grad():
        rendered = render_views(
            model.field, model.background, model.occupancy, cameras, lights, 32, training=False
        )
    torch.testing.assert_close(handed.opacity[5], rendered.opacity[0], atol=1e-5, rtol=0)


def test_the_colour_field_is_the_albedo_and_carries_its_shape(
    model: Nerf, handed: CoarseResult
) -> None:
    again = HashField.blank(handed.color.shape())
    again.load_state_dict(handed.color.state_dict())
    points = torch.rand(50, 3) * 2 - 1
    with torch.no_grad():
        expected = model.field.body(points)[:, 1:4]
        torch.testing.assert_close(handed.color(points), expected, atol=1e-6, rtol=1e-6)
        assert torch.equal(again(points), handed.color(points))


def test_views_before_another_backdrop_are_rendered_before_it(model: Nerf) -> None:
    """What is judged knows its opacity, so that a judge may put something else behind."""
    cameras = orbit(2)
    lights = headlights(cameras.position, 0.3)
    torch.manual_seed(1)
    seen, _ = model.render(cameras, lights, 0)
    other = torch.tensor([0.1, 0.9, 0.4])
    behind = Background(BackgroundConfig(kind="solid", color=(0.1, 0.9, 0.4)))
    torch.manual_seed(1)
    expected = render_views(
        model.field, behind, model.occupancy, cameras, lights, 64, training=True
    )
    torch.testing.assert_close(seen.before(other), expected.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.opacity, expected.opacity)


def test_the_orientation_loss_is_there_whatever_the_lamp_shows(model: Nerf) -> None:
    """In every step in which it has a weight, and in no other."""
    cameras, one = orbit(2), torch.ones(2)
    unlit = Lights(cameras.position, one, torch.full((2,), ALBEDO))
    assert not unlit.need_normals()
    for wanted in (False, True):
        rendered = render_views(
            model.field, model.background, model.occupancy, cameras, unlit, 16, False, wanted
        )
        assert (rendered.normals.shape[0] > 10) == wanted
    losses = []
    for weight in (0.0, 3.0):
        tree = {**dict(model.config.losses), "orientation": weight}
        config = model.config.model_copy(update={"losses": CoarseLossConfig(**tree)})
        judged = Nerf(config, torch.device("cpu"))
        judged.field, judged.background = model.field, model.background
        judged.occupancy = model.occupancy
        torch.manual_seed(2)
        losses.append(judged.render(cameras, unlit, 0)[1])
    assert float(losses[1].detach()) > float(losses[0].detach()) + 1e-4


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_normals_are_computed_for_the_orientation_loss_if_it_weighs_anything(
    model: Nerf, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    cameras, one = orbit(2), torch.ones(2)
    unlit = Lights(cameras.position, one, torch.full((2,), ALBEDO))
    tree = {**dict(model.config.losses), "orientation": weight}
    config = model.config.model_copy(update={"losses": CoarseLossConfig(**tree)})
    judged = Nerf(config, torch.device("cpu"))
    judged.field, judged.background = model.field, model.background
    judged.occupancy = model.occupancy
    asked: list[int] = []
    own_normals = model.field.normals

    def counted(points: Tensor, eps: float) -> Tensor:
        asked.append(points.shape[0])
        return own_normals(points, eps)

    monkeypatch.setattr(model.field, "normals", counted)
    torch.manual_seed(2)
    _, own = judged.render(cameras, unlit, 0)
    assert len(asked) == (1 if weight else 0)
    torch.manual_seed(2)
    rendered = render_views(
        model.field, model.background, model.occupancy, cameras, unlit, 64, True, normals=True
    )
    facing = orientation_loss(rendered.normals, rendered.directions, rendered.hit_opacity)
    rest = 2.0 * opacity_loss(rendered.opacity) + 0.5 * entropy_loss(rendered.opacity)
    assert float(facing.detach()) > 1e-4
    torch.testing.assert_close(own, rest + weight * facing)


@pytest.mark.parametrize("kind", ["inside", "distance"])
def test_what_is_handed_on_is_read_as_it_was_written(
    tmp_path: Path, handed: CoarseResult, kind: str
) -> None:
    run = open_or_create(build_config("a red mushroom"), str(tmp_path / "run"))
    run.coarse.mkdir()
    result = handed
    if kind == "distance":
        distance = torch.randn(5, 5, 5)
        result = dataclasses.replace(handed, inside=None, levels=(0.0, 0.0), distance=distance)
    torch.manual_seed(5)
    write_result(run, result)
    again = read_result(run)
    draw = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(draw, torch.rand(1))  # reading draws no random numbers
    for name in ("images", "opacity", "background", "inside", "distance"):
        one, two = getattr(again, name), getattr(result, name)
        assert (one is None) == (two is None)
        assert one is None or (one.dtype == two.dtype and torch.equal(one, two))
    assert again.levels == result.levels
    assert again.color.grid.config == result.color.grid.config
    state = result.color.state_dict()
    assert again.color.state_dict().keys() == state.keys()
    assert all(torch.equal(again.color.state_dict()[key], state[key]) for key in state)


def test_the_preview_goes_around(model: Nerf) -> None:
    images = model.preview(count=3, resolution=24)
    assert images.shape == (3, 24, 24, 3)
    assert 0.0 <= float(images.min()) <= float(images.max()) <= 1.0 + 1e-6

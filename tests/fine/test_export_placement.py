"""Where a model lies in its files: axes, units, pivots, and that nothing is ever mirrored."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from maquette.common.config.export import FORMATS, ExportConfig, TargetName, metres
from maquette.fine.export.placement import TARGETS, Pose, formats_of, placed
from maquette.fine.export.write import to_file_axes

FRONT, LEFT, UP = torch.eye(3)
# A box that stands above the world's origin: 2 long (front), 1 wide, 4 high.
BOX = torch.tensor(list(product((-0.5, 1.5), (0.0, 1.0), (1.0, 5.0))))


def directions(kind, config: ExportConfig, pose: Pose | None = None) -> list[list[float]]:
    """The front, the left side and up in a file."""
    own = placed(kind, config, pose or Pose(), BOX)
    return [[float(x) + 0.0 for x in own.vectors(v)] for v in (FRONT, LEFT, UP)]


def size(kind, config: ExportConfig, pose: Pose | None = None) -> list[float]:
    points = placed(kind, config, pose or Pose(), BOX).points(BOX)
    return (points.max(0).values - points.min(0).values).tolist()


def test_the_plain_pose_is_a_plain_turn() -> None:
    points = torch.randn(50, 3)
    own = placed("obj", ExportConfig(), Pose(), points)
    assert torch.equal(own.points(points), to_file_axes(points))
    assert own == Pose()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("target", [None, *get_args(TargetName)])
def test_no_file_is_mirrored_and_all_can_be_undone(kind, target) -> None:
    config = ExportConfig(target=target, height="12cm")
    own = placed(kind, config, Pose(), BOX)
    assert float(torch.linalg.det(torch.stack([own.vectors(v) for v in torch.eye(3)]))) == 1.0
    torch.testing.assert_close(own.from_file(own.points(BOX)), BOX, atol=1e-5, rtol=0)


def test_axes_by_format_and_target() -> None:
    y_up = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    z_up = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    plain = ExportConfig()
    for kind in ("obj", "glb", "ply", "usdz"):
        assert directions(kind, plain) == y_up
    for kind in ("stl", "3mf"):
        assert directions(kind, plain) == z_up
    assert directions("obj", ExportConfig(up="z")) == z_up
    assert directions("glb", ExportConfig(up="z")) == y_up  # glTF has Y up
    assert directions("ply", ExportConfig(target="blender")) == z_up
    assert directions("obj", ExportConfig(target="blender")) == y_up


def test_heights_and_units() -> None:
    assert size("glb", ExportConfig(height="12cm")) == pytest.approx([0.03, 0.12, 0.06])
    assert size("obj", ExportConfig(height="12cm", target="unreal")) == pytest.approx(
        [3.0, 6.0, 12.0]
    )
    assert size("stl", ExportConfig(height="3in")) == pytest.approx([19.05, 38.1, 76.2])
    assert size("3mf", ExportConfig())[2] == pytest.approx(100.0)
    assert size("obj", ExportConfig()) == [1.0, 4.0, 2.0]


@pytest.mark.parametrize("text", ["12", "cm", "-3cm", "0mm", "9999m", "12 parsec", "nancm", ""])
def test_a_height_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ValidationError, match="length from 1mm"):
        ExportConfig(height=text)


def test_lengths_in_closed_form() -> None:
    assert metres("12cm") == pytest.approx(0.12)
    assert metres("3in") == pytest.approx(0.0762)
    assert metres(" 80 mm ") == pytest.approx(0.08)
    assert metres("1ft") == pytest.approx(0.3048)


@pytest.mark.parametrize("kind", ["obj", "glb", "ply"])
def test_pivots(kind) -> None:
    for pivot, low, high in (("foot", 0.0, 4.0), ("centre", -2.0, 2.0), ("origin", 1.0, 5.0)):
        points = placed(kind, ExportConfig(pivot=pivot), Pose(), BOX).points(BOX)
        assert points[:, 1].min() == pytest.approx(low)
        assert points[:, 1].max() == pytest.approx(high)
        if pivot != "origin":
            middle = 0.5 * (points.min(0).values + points.max(0).values)
            assert middle[[0, 2]].tolist() == pytest.approx([0.0, 0.0])


def test_the_pose_of_a_users_mesh_is_restored() -> None:
    own = Pose((0, 1, 2), (1, 1, 1), "z", 25.4, (3.0, -2.0, 7.0))
    for kind in ("obj", "ply"):
        assert placed(kind, ExportConfig(), own, BOX) == own
    turned = placed("glb", ExportConfig(), own, BOX)  # with Y up (x, y, z) is (x, z, -y)
    x, y, z = own.points(BOX).unbind(1)
    torch.testing.assert_close(turned.points(BOX), torch.stack([x, z, -y], dim=1))
    again = turned.turned("z")
    torch.testing.assert_close(again.points(BOX), own.points(BOX))


def test_a_unit_that_a_file_declares_holds() -> None:
    inches = Pose((0, 1, 2), (1, 1, 1), "z", 2.0, (0.0, 0.0, 0.0), metre=0.0254)
    assert size("3mf", ExportConfig(), inches)[2] == pytest.approx(4 * 2 * 25.4)
    assert size("glb", ExportConfig(), inches)[1] == pytest.approx(4 * 2 * 0.0254)
    assert size("obj", ExportConfig(), inches)[2] == pytest.approx(4 * 2)
    assert size("3mf", ExportConfig(height="10cm"), inches)[2] == pytest.approx(100.0)


def test_formats_are_the_targets_or_those_asked_for() -> None:
    assert formats_of(ExportConfig()) == ["obj", "glb"]
    assert formats_of(ExportConfig(target="print")) == ["3mf", "stl"]
    assert formats_of(ExportConfig(target="print", formats="glb, ply,glb")) == ["glb", "ply"]
    with pytest.raises(ValidationError):
        ExportConfig(formats="fbx")
    with pytest.raises(ValidationError):
        ExportConfig(formats="")
    assert set(TARGETS) == set(get_args(TargetName))

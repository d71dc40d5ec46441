"""Where a model lies in its files: axes, scale and pivot, for the program that will open them.

The world has Z up and fronts along +X. In files with Y up the front is +Z, in files with Z up it is
-Y: the two differ by the quarter turn that programs make when they import Y-up files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...common.config.export import Axis, ExportConfig, Format, Pivot, TargetName, metres

PRINT_HEIGHT = 0.1  # metres, where nothing is known
MILLIMETRES: tuple[Format, ...] = ("stl", "3mf")  # formats of printers
METRES: tuple[Format, ...] = ("glb", "usdz")  # formats whose unit is the metre


@dataclass(frozen=True)
class Target:
    """What a program expects.

    formats: what is written where nothing is said. obj_up, ply_up: which axis its importers of
    these formats take for up. unit: units a metre in files that name no unit. green: +1 where a
    normal map's green points up (OpenGL), -1 where it points down (DirectX).
    """

    formats: tuple[Format, ...] = ("glb",)
    obj_up: Axis = "y"
    ply_up: Axis = "y"
    unit: float = 1.0
    pivot: Pivot = "origin"
    green: int = 1


PLAIN = Target(formats=("obj", "glb"))
TARGETS: dict[TargetName, Target] = {
    "blender": Target(formats=("obj", "glb"), ply_up="z"),
    "unity": Target(formats=("obj", "glb"), pivot="foot"),
    "unreal": Target(obj_up="z", ply_up="z", unit=100.0, pivot="foot", green=-1),
    "godot": Target(pivot="foot"),
    "three": Target(),
    "print": Target(formats=("3mf", "stl"), obj_up="z", ply_up="z", unit=1000.0, pivot="foot"),
}


@dataclass(frozen=True)
class Pose:
    """How the world's axes become those of files, where no one asks for anything else.

    axes, signs: file axis i is `signs[i]` times world axis `axes[i]`. up: which file axis that is.
    scale: file units a world unit. offset: where the world's origin lies in the file. metre: metres
    a file unit, None where nobody has said. A mesh that a run began with brings its own.
    """

    axes: tuple[int, int, int] = (1, 2, 0)
    signs: tuple[int, int, int] = (1, 1, 1)
    up: Axis = "y"
    scale: float = 1.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    metre: float | None = None

    def turned(self, up: Axis) -> Pose:
        """The same pose with another axis up: (x, y, z) with Y up is (x, -z, y) with Z up."""
        if up == self.up:
            return self
        (a, b, c), (i, j, k), (x, y, z) = self.axes, self.signs, self.offset
        if up == "z":
            return replace(self, axes=(a, c, b), signs=(i, -k, j), offset=(x, -z, y), up=up)
        return replace(self, axes=(a, c, b), signs=(i, k, -j), offset=(x, z, -y), up=up)

    def scaled(self, factor: float) -> Pose:
        """The same pose with everything, its distance from the origin too, times a factor."""
        x, y, z = self.offset
        offset = (factor * x, factor * y, factor * z)
        metre = None if self.metre is None else self.metre / factor
        return replace(self, scale=self.scale * factor, offset=offset, metre=metre)

    def vectors(self, vectors: Tensor) -> Tensor:
        """World directions `[..., 3]` in the file's axes."""
        turned = vectors[..., list(self.axes)]
        if self.signs == (1, 1, 1):
            return turned
        return turned * turned.new_tensor(self.signs)

    def points(self, points: Tensor) -> Tensor:
        """World points `[..., 3]` in the file."""
        placed = self.vectors(points)
        if self.scale != 1.0:
            placed = placed * self.scale
        if any(self.offset):
            placed = placed + placed.new_tensor(self.offset)
        return placed

    def from_file(self, points: Tensor) -> Tensor:
        """The inverse of `points`, computed in float64, float32 out."""
        placed = (points.double() - points.new_tensor(self.offset).double()) / self.scale
        return self.from_vectors(placed).float()

    def from_vectors(self, vectors: Tensor) -> Tensor:
        """The inverse of `vectors`."""
        turned = vectors * vectors.new_tensor(self.signs)
        return turned[..., [self.axes.index(axis) for axis in range(3)]]


def target_of(config: ExportConfig) -> Target:
    """What the program that a configuration names expects."""
    return TARGETS[config.target] if config.target else PLAIN


def formats_of(config: ExportConfig) -> list[Format]:
    """The formats that a configuration asks for."""
    return list(config.formats or target_of(config).formats)


def up_of(kind: Format, config: ExportConfig) -> Axis | None:
    """The axis that points up in a file; None where nobody has said.

    glTF and USDZ have Y up, whatever is asked: their readers turn what they read. Slicers take Z.
    """
    target = target_of(config)
    if kind in METRES:
        return "y"
    if kind in MILLIMETRES:
        return "z"
    if config.up is not None:
        return config.up
    if config.target is None:
        return None
    return target.obj_up if kind == "obj" else target.ply_up


def placed(kind: Format, config: ExportConfig, pose: Pose, vertices: Tensor) -> Pose:
    """Where a model lies in a file of one format.

    vertices: world points `[V, 3]` of the model, which its height and foot are measured from.
    """
    target, prints = target_of(config), kind in MILLIMETRES
    pose = pose.turned(up_of(kind, config) or pose.up)
    axis = "xyz".index(pose.up)
    low, high = _box(pose.points(vertices))
    unit = 1000.0 if prints else 1.0 if kind in METRES else target.unit  # file units a metre
    wanted = None if config.height is None else metres(config.height)
    if wanted is None and prints and pose.metre is None:
        wanted = PRINT_HEIGHT
    if wanted is not None and high[axis] > low[axis]:
        pose = pose.scaled(wanted * unit / (high[axis] - low[axis]))
    elif pose.metre is not None and (prints or kind in METRES or config.target is not None):
        pose = pose.scaled(pose.metre * unit)
    elif unit != 1.0 and not prints:
        pose = pose.scaled(unit)
    pivot = "foot" if prints else config.pivot or target.pivot
    if pivot == "origin":
        return pose
    low, high = _box(pose.points(vertices))
    middle = [0.5 * (a + b) for a, b in zip(low, high, strict=True)]
    if pivot == "foot":
        middle[axis] = low[axis]
    x, y, z = (o - m for o, m in zip(pose.offset, middle, strict=True))
    return replace(pose, offset=(x, y, z))


def _box(points: Tensor) -> tuple[Sequence[float], Sequence[float]]:
    points = points.double()
    return torch.amin(points, dim=0).tolist(), torch.amax(points, dim=0).tolist()

"""The vehicles of the toybox, each a function that kneads one object; all drive along +X."""

from __future__ import annotations

import math

import numpy as np

from .clay import PRIMARY, SECONDARY, Clay
from .shapes import (
    Array,
    Solid,
    box,
    capsule,
    cylinder,
    ellipsoid,
    frustum,
    hull,
    lathe,
    loft,
    prism,
    spline,
    torus,
    tube,
)


def _wheels(clay: Clay, stations: list[tuple[float, float]], y: float, hub: str) -> None:
    """A pair of chunky wheels for every (x, radius) with their outer sides at +-y."""
    for x, radius in stations:
        tire = cylinder(radius, 0.2, 0.07).turned("x", -90).moved(x, y - 0.2, radius)
        cap = cylinder(0.55 * radius, 0.05, 0.02).turned("x", -90).moved(x, y - 0.025, radius)
        clay.pair("tire", tire)
        clay.pair(hub, cap)


def car(clay: Clay) -> None:
    """A small round car; the roof is the second paint."""
    length, height, wheel = clay.vary(0.84), clay.vary(0.42), clay.vary(0.22)
    low, width = 0.18, 0.46
    belt, long = low + height, length / 0.84
    body = [(1.0, 0.0), (1.0, 0.55), (0.86, 0.84), (0.48, 1.0), (-0.6, 1.02), (-0.92, 0.88),
            (-1.0, 0.5), (-1.0, 0.0)]  # fmt: skip
    side = np.array(body) * np.array([length, height])
    clay.add(PRIMARY, prism(side, 2 * width, 0.12, 0.14).turned("x", 90).moved(0, 0, low))
    cabin = np.array([(0.44, -0.12), (0.22, 0.38), (-0.54, 0.38), (-0.76, -0.12)]) * [long, 1]
    clay.add(PRIMARY, prism(cabin, 0.78, 0.1, 0.1).turned("x", 90).moved(0, 0, belt))
    for pane in ([(0.29, 0.03), (0.16, 0.3), (-0.12, 0.3), (-0.12, 0.03)],
                 [(-0.22, 0.03), (-0.22, 0.3), (-0.48, 0.3), (-0.6, 0.03)]):  # fmt: skip
        glass = prism(np.array(pane) * [long, 1], 0.82, 0.02, 0.06)
        clay.add("glass", glass.turned("x", 90).moved(0, 0, belt))
    lean = math.degrees(math.atan2(0.22 * long, 0.5))
    screen = box(0.1, 0.6, 0.3, 0.045)
    clay.add("glass", screen.turned("y", -lean).moved(0.305 * long, 0, belt + 0.16))
    clay.add("glass", screen.turned("y", lean).moved(-0.625 * long, 0, belt + 0.16))
    clay.add(SECONDARY, box(0.76 * long, 0.72, 0.15, 0.07).moved(-0.16 * long, 0, belt + 0.37))
    clay.pair("gold", ellipsoid(0.07, 0.1, 0.1).moved(length - 0.02, 0.27, low + 0.62 * height))
    clay.pair("tomato", ellipsoid(0.05, 0.08, 0.07).moved(-length + 0.01, 0.29, low + 0.6 * height))
    for x in (length, -length):
        clay.add("silver", box(0.13, 0.9, 0.12, 0.055).moved(x, 0, low + 0.07))
    _wheels(clay, [(0.54 * length, wheel), (-0.54 * length, wheel)], width + 0.05, "silver")


def truck(clay: Clay) -> None:
    """A tipper truck with a heap on its bed; the heap is the second paint."""
    bed, height, wheel = clay.vary(0.98, 0.12), clay.vary(0.42), clay.vary(0.22)
    base = 0.34
    clay.add("slate", box(bed + 0.72, 0.5, 0.16, 0.05).moved(0.5 * (0.72 - bed) + 0.04, 0, 0.26))
    cab = [(0.02, 0), (0.68, 0), (0.7, 0.32), (0.52, 0.46), (0.42, 0.86), (0.02, 0.86)]
    clay.add(PRIMARY, prism(cab, 0.84, 0.09, 0.1).turned("x", 90).moved(0.06, 0, base - 0.08))
    clay.add("glass", box(0.09, 0.66, 0.3, 0.04).turned("y", -14).moved(0.52, 0, base + 0.55))
    clay.pair("glass", box(0.26, 0.1, 0.28, 0.04).moved(0.27, 0.39, base + 0.54))
    clay.pair("gold", ellipsoid(0.06, 0.09, 0.09).moved(0.755, 0.28, base + 0.12))
    clay.add("slate", box(0.08, 0.3, 0.13, 0.03).moved(0.745, 0, base + 0.13))
    clay.add("silver", box(0.12, 0.88, 0.12, 0.05).moved(0.74, 0, base - 0.06))
    wall = [(0.0, 0), (0.06, height), (-bed - 0.1, height), (-bed, 0)]
    clay.add(PRIMARY, prism(wall, 0.9, 0.08, 0.08).turned("x", 90).moved(-0.02, 0, base))
    heap = ellipsoid(0.44 * bed, 0.36, clay.vary(0.24))
    clay.add(SECONDARY, heap.moved(-0.5 * bed - 0.04, 0, base + height - 0.04))
    _wheels(clay, [(0.42, wheel), (-0.36 * bed, wheel), (-0.82 * bed, wheel)], 0.48, "silver")


def train(clay: Clay) -> None:
    """A steam engine; wheels, cab roof and a boiler ring are the second paint."""
    boiler, radius, wheel = clay.vary(0.72, 0.12), clay.vary(0.35, 0.12), clay.vary(0.17)
    axis = 0.34 + radius
    clay.add("slate", box(boiler + 0.68, 0.52, 0.16, 0.05).moved(0.5 * boiler - 0.3, 0, 0.28))
    clay.add(PRIMARY, _drum(radius, boiler + 0.1).moved(-0.1, 0, axis))
    clay.add("slate", _drum(0.86 * radius, 0.1).moved(boiler - 0.04, 0, axis))
    clay.add("gold", ellipsoid(0.06, 0.11, 0.11).moved(boiler + 0.06, 0, axis))
    clay.add(SECONDARY, _drum(radius + 0.03, 0.1).moved(0.3 * boiler, 0, axis))
    clay.add(PRIMARY, box(0.56, 0.8, 0.98, 0.07).moved(-0.34, 0, 0.83))
    clay.pair("glass", box(0.28, 0.1, 0.27, 0.04).moved(-0.34, 0.37, 1.06))
    clay.pair("glass", box(0.1, 0.2, 0.2, 0.04).moved(-0.09, 0.2, 1.17))
    eaves = [(-0.48, -0.05), (0.48, -0.05), (0.46, 0.06), (0.0, 0.15), (-0.46, 0.06)]
    clay.add(SECONDARY, prism(eaves, 0.7, 0.05, 0.1).turned("x", 90).turned("z", 90)
             .moved(-0.34, 0, 1.35))  # fmt: skip
    stack, x, top = clay.vary(0.34), 0.8 * boiler, axis + radius
    clay.add(PRIMARY, frustum(0.12, 0.15, stack).moved(x, 0, top - 0.08))
    clay.add("slate", cylinder(0.2, 0.13, 0.04).moved(x, 0, top + stack - 0.1))
    dome = spline([(0.14, 0), (0.15, 0.1), (0.1, 0.2), (0.01, 0.24)], 10)
    clay.add("gold", lathe(dome).moved(0.34 * boiler, 0, top - 0.03))
    plow = [(0.0, -0.36), (0.24, -0.12), (0.24, 0.12), (0.0, 0.36)]
    clay.add(PRIMARY, prism(plow, 0.24, 0.05, 0.05).moved(boiler + 0.02, 0, 0.2))
    spots = [(0.78 * boiler, wheel), (0.26 * boiler, wheel), (-0.36, 1.35 * wheel)]
    for at, size in spots:
        clay.pair(SECONDARY, cylinder(size, 0.14, 0.04).turned("x", -90).moved(at, 0.26, size))
        clay.pair("gold", cylinder(0.4 * size, 0.05, 0.02).turned("x", -90).moved(at, 0.375, size))


def _drum(radius: float, length: float) -> Solid:
    """A cylinder that lies along X, from x = 0 forward."""
    return cylinder(radius, length, 0.05).turned("y", 90)


def boat(clay: Clay) -> None:
    """A tugboat; its cabin is the second paint."""
    length, width, funnel = clay.vary(0.86), clay.vary(0.42), clay.vary(0.4)
    sheer = [(-1.0, 0.66, 0.5, 0.0), (-0.9, 0.86, 0.48, 0.0), (-0.3, 1.0, 0.44, 0.0),
             (0.3, 0.96, 0.48, 0.0), (0.75, 0.6, 0.58, 0.06), (1.0, 0.1, 0.68, 0.2)]  # fmt: skip
    rows = spline(sheer, 24)  # along the hull: x, half width, height of the deck, of the keel
    angle = np.radians(np.linspace(180, 360, 19))
    y = width * rows[:, 1:2] * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.6
    depth = (rows[:, 2:3] - rows[:, 3:4]) * np.abs(np.sin(angle)) ** 0.75
    x = np.broadcast_to(length * rows[:, :1] - 0.12 * depth, y.shape)
    rings = np.stack([x, y, rows[:, 2:3] - depth], axis=-1)
    clay.add(PRIMARY, loft(rings))
    rim = np.stack([length * rows[:, 0], width * rows[:, 1], rows[:, 2]], axis=-1)
    for side in (1, -1):
        clay.add("cream", _rail(rim * np.array([1, side, 1])))
    clay.add("wood", prism([(-0.9 * length, -0.8 * width), (0.5 * length, -0.8 * width),
                            (0.82 * length, 0), (0.5 * length, 0.8 * width),
                            (-0.9 * length, 0.8 * width)], 0.1, 0.03, 0.2)
             .moved(0, 0, 0.45))  # fmt: skip
    clay.add(SECONDARY, box(0.56, 0.5, 0.46, 0.08).moved(0.1, 0, 0.64))
    clay.add(PRIMARY, box(0.66, 0.6, 0.1, 0.045).moved(0.12, 0, 0.88))
    clay.add("glass", box(0.08, 0.38, 0.18, 0.03).moved(0.365, 0, 0.7))
    clay.pair("glass", *(cylinder(0.085, 0.06, 0.02).turned("x", -90).moved(x, 0.22, 0.7)
                         for x in (-0.04, 0.2)))  # fmt: skip
    clay.add(PRIMARY, cylinder(0.15, funnel + 0.2, 0.04).moved(-0.42, 0, 0.45))
    clay.add("snow", cylinder(0.165, 0.1, 0.02).moved(-0.42, 0, 0.45 + 0.55 * funnel))
    clay.add("ink", cylinder(0.17, 0.12, 0.04).moved(-0.42, 0, 0.56 + funnel))
    ring = torus(0.11, 0.045).turned("x", 90).moved(0.45 * length, 0.86 * width, 0.28)
    clay.pair("snow", ring)


def _rail(line: Array) -> Solid:
    """A round rail along a line `[N, 3]`."""
    return tube(line, 0.055, 12)


def airplane(clay: Clay) -> None:
    """A stubby airplane; wing tips, tail tip and engine ring are the second paint."""
    span, radius, tail = clay.vary(0.84), clay.vary(0.31), clay.vary(0.38)
    body = [(0.7, 0.0, 0.17, 0.17, 2), (0.64, 0.0, 0.26, 0.26, 2), (0.36, 0.0, radius, radius, 2.2),
            (0.0, 0.02, radius, 1.04 * radius, 2.2), (-0.5, 0.08, 0.66 * radius, 0.68 * radius, 2),
            (-0.86, 0.15, 0.1, 0.1, 2), (-0.92, 0.16, 0.03, 0.03, 2)]  # fmt: skip
    clay.add(PRIMARY, hull(body, 28))
    clay.add(SECONDARY, torus(0.22, 0.085).turned("y", 90).moved(0.63, 0, 0))
    clay.add("gold", ellipsoid(0.15, 0.12, 0.12).moved(0.76, 0, 0))
    for turn in (40, 130):
        clay.add("cocoa", box(0.09, 0.74, 0.13, 0.044).turned("x", turn).moved(0.8, 0, 0))
    clay.add("glass", ellipsoid(0.27, 0.21, 0.24).moved(0.12, 0, 0.26))
    for paint, inner, outer in ((PRIMARY, 0.0, 1.0), (SECONDARY, 0.74, 1.03)):
        chord = [0.32 - 0.1 * inner, 0.32 - 0.1 * outer]
        grow = 0.012 if paint == SECONDARY else 0.0
        wing = [(chord[0] + grow, span * inner), (chord[1] + grow, span * outer),
                (-chord[1] + 0.06 - grow, span * outer),
                (-chord[0] - grow, span * inner)]  # fmt: skip
        plate = prism(wing, 0.12 + 2 * grow, 0.05, 0.1)
        clay.pair(paint, plate.turned("x", 5).moved(0.08, 0.02, -0.08))
    fin = [(0.16, 0.0), (-0.14, tail), (-0.32, tail), (-0.26, 0.0)]
    clay.add(SECONDARY, prism(fin, 0.12, 0.04, 0.08).turned("x", 90).moved(-0.62, 0, 0.18))
    flat = [(0.16, 0.0), (0.0, 0.42), (-0.2, 0.42), (-0.18, 0.0)]
    clay.pair(PRIMARY, prism(flat, 0.11, 0.04, 0.08).moved(-0.72, 0.0, 0.14))
    clay.pair("tire", cylinder(0.14, 0.13, 0.05).turned("x", -90).moved(0.24, 0.17, -0.42))
    clay.pair("slate", capsule((0.18, 0.14, -0.15), (0.24, 0.2, -0.42), 0.055))


def rocket(clay: Clay) -> None:
    """A rocket on its fins; nose and fins are the second paint."""
    width, height, fin = clay.vary(0.44), clay.vary(0.94, 0.12), clay.vary(0.38)
    outline = [(0.62, 0.2), (0.84, 0.45), (1.0, 0.8), (0.96, 1.15), (0.8, 1.42), (0.56, 1.66)]
    profile = spline(outline, 22) * np.array([width, height])
    clay.add(PRIMARY, lathe(profile))
    nose = np.array([(0.585, 1.64), (0.62, 1.67), (0.36, 1.88), (0.12, 2.04), (0, 2.08)])
    clay.add(SECONDARY, lathe(spline(nose, 14)[:-1] * np.array([width, height])))
    clay.add("gold", ellipsoid(0.07).moved(0, 0, 2.08 * height))
    clay.add("slate", frustum(0.74 * width, 0.6 * width, 0.14).moved(0, 0, 0.12))
    clay.add("tangerine", lathe(spline([(0, -0.14), (0.1, -0.05), (0.17, 0.06), (0.14, 0.16)], 12)))
    plate = [(0.55 * width, 0.75), (0.9 * width + 0.06, 0.6), (0.9 * width + fin, 0.16),
                     (0.84 * width + fin, -0.12), (0.6 * width + 0.5 * fin, 0.14),
                     (0.45 * width, 0.28)]  # fmt: skip
    blade = prism(plate, 0.14, 0.06, 0.1).turned("x", 90)
    clay.add(SECONDARY, *(blade.turned("z", turn) for turn in (60, 180, 300)))
    window = 1.12 * height
    clay.add("silver", torus(0.17, 0.055).turned("y", 84).moved(0.93 * width, 0, window))
    clay.add("glass", ellipsoid(0.06, 0.165, 0.165).turned("y", -6).moved(0.93 * width, 0, window))

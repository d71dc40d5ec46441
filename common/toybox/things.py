"""Buildings, furniture, plants, food and figures of the toybox, one function each."""

from __future__ import annotations

import math

import numpy as np

from .clay import PRIMARY, SECONDARY, Clay
from .shapes import (
    Solid,
    arc,
    box,
    capsule,
    cylinder,
    ellipsoid,
    frustum,
    lathe,
    prism,
    rounded,
    spline,
    torus,
    tube,
)


def _gable(width: float, height: float, depth: float, thick: float) -> Solid:
    """One side of a roof: from the ridge along X down to the eaves at y = `width`."""
    run = math.hypot(width, height)
    lift = math.degrees(math.atan2(height, width))
    slab = box(depth, run + 0.08, thick, 0.045).moved(0, 0.5 * run - 0.02, 0)
    return slab.turned("x", -lift).moved(0, 0, height)


def house(clay: Clay) -> None:
    """A cottage; its roof is the second paint."""
    width, wall, roof = clay.vary(0.52), clay.vary(0.82), clay.vary(0.36)
    depth = 0.54
    front = [(-width, 0), (width, 0), (width, wall), (0, wall + roof), (-width, wall)]
    clay.add(PRIMARY, prism(front, 2 * depth, 0.03, 0.03)
             .turned("x", 90).turned("z", 90))  # fmt: skip
    eaves = 1.1
    clay.pair(SECONDARY, _gable(eaves * width, eaves * roof, 2 * depth + 0.08, 0.1)
              .moved(0, 0, wall - 0.1 * roof + 0.02))  # fmt: skip
    clay.add("wood", prism([(-0.14, 0), (0.14, 0), (0.14, 0.3), (0.0, 0.46), (-0.14, 0.3)],
                           0.1, 0.03, 0.1)
             .turned("x", 90).turned("z", 90).moved(depth, 0, 0.02))  # fmt: skip
    clay.add("gold", ellipsoid(0.04).moved(depth + 0.06, 0.08, 0.2))
    for y in (-0.32, 0.32):
        clay.add("cream", box(0.08, 0.26, 0.28, 0.03).moved(depth, y * width / 0.5, 0.42))
        clay.add("glass", box(0.08, 0.18, 0.2, 0.03).moved(depth + 0.025, y * width / 0.5, 0.42))
    clay.add("cream", cylinder(0.13, 0.07, 0.02).turned("y", 90).moved(depth - 0.02, 0, wall + 0.1))
    clay.add("glass", cylinder(0.09, 0.07, 0.02).turned("y", 90).moved(depth, 0, wall + 0.1))
    clay.pair("cream", box(0.34, 0.08, 0.3, 0.03).moved(0, width, 0.42))
    clay.pair("glass", box(0.25, 0.08, 0.21, 0.03).moved(0, width + 0.025, 0.42))
    chimney = wall + roof
    clay.add("terracotta", box(0.2, 0.2, 0.5, 0.03).moved(-0.26, 0.5 * width, chimney - 0.1))
    clay.add("cream", box(0.26, 0.26, 0.09, 0.03).moved(-0.26, 0.5 * width, chimney + 0.15))
    clay.add("leaf", *(ellipsoid(0.13, 0.14, 0.13).moved(depth + 0.06, y, 0.1)
                       for y in (-0.36, 0.36)))  # fmt: skip


def castle(clay: Clay) -> None:
    """A castle with four towers; their roofs are the second paint."""
    half, wall, tower = clay.vary(0.5, 0.1), clay.vary(0.62), clay.vary(0.95, 0.12)
    roof = clay.vary(0.48)
    clay.add(PRIMARY, box(2 * half, 2 * half, wall, 0.03).moved(0, 0, 0.5 * wall))
    tooth = box(0.15, 0.15, 0.16, 0.03, steps=1)
    for i in (-0.26, 0.0, 0.26):
        at = i * half / 0.5
        clay.add(PRIMARY, tooth.moved(half - 0.06, at, wall + 0.05))
        clay.add(PRIMARY, tooth.moved(-half + 0.06, at, wall + 0.05))
        clay.pair(PRIMARY, tooth.moved(at, half - 0.06, wall + 0.05))
    for x in (half, -half):
        clay.pair(PRIMARY, cylinder(0.22, tower, 0.03).moved(x, half, 0))
        clay.pair(SECONDARY, frustum(0.29, 0.03, roof, 0.04).moved(x, half, tower - 0.03))
        clay.pair("gold", ellipsoid(0.055).moved(x, half, tower + roof - 0.03))
    keep = 0.3 * half / 0.5
    clay.add(PRIMARY, box(2 * keep, 2 * keep, tower + 0.16, 0.03).moved(0, 0, 0.5 * tower + 0.08))
    clay.add(SECONDARY, frustum(1.5 * keep, 0.04, 1.1 * roof, 0.04).moved(0, 0, tower + 0.12))
    clay.add("gold", ellipsoid(0.06).moved(0, 0, tower + 0.12 + 1.1 * roof))
    gate = np.concatenate([[(-0.19, 0.0), (0.19, 0.0)], arc(0.19, 0, 180, 9) + np.array([0, 0.26])])
    clay.add("cream", prism(gate * np.array([1.3, 1.12]), 0.1, 0.03).turned("x", 90)
             .turned("z", 90).moved(half, 0, 0.01))  # fmt: skip
    clay.add("cocoa", prism(gate, 0.1, 0.03).turned("x", 90).turned("z", 90)
             .moved(half + 0.03, 0, 0.02))  # fmt: skip
    clay.pair("ink", ellipsoid(0.05, 0.06, 0.11).moved(half + 0.2, half, 0.72 * tower))
    clay.add("ink", ellipsoid(0.05, 0.07, 0.12).moved(keep - 0.0, 0, tower - 0.04))


def birdhouse(clay: Clay) -> None:
    """A birdhouse on its post, with a hole and a perch; the roof is the second paint."""
    width, wall, roof, post = clay.vary(0.44), clay.vary(0.72), clay.vary(0.3), clay.vary(0.46)
    depth = 0.38
    front = [(-width, 0), (width, 0), (width, wall), (0, wall + roof), (-width, wall)]
    clay.add(PRIMARY, prism(front, 2 * depth, 0.04, 0.05)
             .turned("x", 90).turned("z", 90).moved(0, 0, post))  # fmt: skip
    clay.pair(SECONDARY, _gable(1.16 * width, 1.16 * roof, 2 * depth + 0.1, 0.09)
              .moved(0, 0, post + wall - 0.13 * roof))  # fmt: skip
    hole = post + 0.72 * wall
    clay.add("cream", cylinder(0.215, 0.08, 0.03).turned("y", 90).moved(depth - 0.03, 0, hole))
    clay.add("pupil", cylinder(0.155, 0.08, 0.02).turned("y", 90).moved(depth - 0.01, 0, hole))
    clay.add("wood", capsule((depth - 0.1, 0, post + 0.2), (depth + 0.22, 0, post + 0.2), 0.055))
    clay.add("wood", cylinder(0.11, post + 0.1).moved(0, 0, 0.0))
    clay.add("leaf", ellipsoid(0.28, 0.28, 0.11).moved(0, 0, 0.02))
    clay.add("wood", box(2 * depth + 0.12, 2 * width + 0.1, 0.09, 0.035).moved(0, 0, post))


def robot(clay: Clay) -> None:
    """A tin robot; arms, legs and ears are the second paint."""
    width, height, head = clay.vary(0.4), clay.vary(0.62), clay.vary(0.5, 0.1)
    legs = clay.vary(0.28)
    middle = legs + 0.1 + 0.5 * height
    clay.add(PRIMARY, box(0.56, 2 * width, height, 0.1).moved(0, 0, middle))
    neck = middle + 0.5 * height
    clay.add(SECONDARY, cylinder(0.15, 0.2).moved(0, 0, neck - 0.05))
    top = neck + 0.1 + 0.5 * head
    clay.add(PRIMARY, box(0.56, 0.78, head, 0.12).moved(0, 0, top))
    clay.add("ink", box(0.1, 0.6, 0.32, 0.045).moved(0.26, 0, top + 0.01))
    clay.pair("sky", ellipsoid(0.045, 0.08, 0.08).moved(0.31, 0.14, top + 0.05))
    smile = np.concatenate([np.full((7, 1), 0.31), arc(0.11, 215, 325, 7)], axis=1)
    clay.add("sky", tube(smile + np.array([0, 0, top + 0.03]), 0.028, 8))
    clay.pair(SECONDARY, cylinder(0.13, 0.12).turned("x", -90).moved(0, 0.36, top))
    clay.add(SECONDARY, cylinder(0.055, 0.22, 0.01).moved(0, 0, top + 0.5 * head - 0.03))
    clay.add("tomato", ellipsoid(0.1).moved(0, 0, top + 0.5 * head + 0.22))
    clay.add("cream", box(0.08, 0.48, 0.3, 0.035).moved(0.265, 0, middle + 0.04))
    for y, paint in ((-0.14, "tomato"), (0.0, "gold"), (0.14, "leaf")):
        clay.add(paint, ellipsoid(0.04, 0.055, 0.055).moved(0.305, y, middle + 0.07))
    shoulder = middle + 0.3 * height
    arm = spline([(0, width, shoulder), (0.0, width + 0.17, shoulder - 0.06),
                  (0.08, width + 0.2, shoulder - 0.36)], 12)  # fmt: skip
    clay.pair(SECONDARY, tube(arm, 0.085))
    clay.pair(PRIMARY, ellipsoid(0.14).moved(0.1, width + 0.2, shoulder - 0.46))
    clay.pair(SECONDARY, cylinder(0.11, legs + 0.1).moved(0, 0.2, 0.1))
    clay.pair(PRIMARY, box(0.44, 0.28, 0.18, 0.08).moved(0.06, 0.2, 0.09))


def snowman(clay: Clay) -> None:
    """A snowman with a hat, a carrot and stick arms; the scarf is the second paint."""
    low, mid, top = clay.vary(0.48, 0.1), clay.vary(0.36, 0.1), clay.vary(0.28, 0.1)
    z1 = 0.88 * low
    z2 = z1 + 0.78 * low + 0.52 * mid
    z3 = z2 + 0.72 * mid + 0.62 * top
    clay.add(PRIMARY, ellipsoid(low, low, 0.9 * low).moved(0, 0, z1))
    clay.add(PRIMARY, ellipsoid(mid).moved(0, 0, z2))
    clay.add(PRIMARY, ellipsoid(top).moved(0, 0, z3))
    clay.add("tangerine", frustum(0.085, 0.025, clay.vary(0.34), 0.03).turned("y", 90)
             .moved(0.85 * top, 0, z3))  # fmt: skip
    clay.eyes(0.88 * top, 0.105, z3 + 0.09, 0.055)
    for z in (-0.08, 0.12):
        x = math.sqrt(mid**2 - z**2)
        clay.add("ink", ellipsoid(0.045, 0.06, 0.06).moved(x, 0, z2 + z))
    neck = 0.5 * (z2 + 0.72 * mid + z3 - 0.72 * top)
    clay.add(SECONDARY, torus(0.235, 0.085).moved(0, 0, neck))
    tail = spline([(0.26, 0.12, neck), (0.37, 0.14, neck - 0.14), (0.42, 0.16, neck - 0.34)], 10)
    clay.add(SECONDARY, tube(tail, 0.075))
    brim = z3 + 0.68 * top
    clay.add("ink", cylinder(0.33, 0.08, 0.035).moved(0, 0, brim))
    clay.add("ink", frustum(0.21, 0.225, clay.vary(0.3), 0.04).moved(0, 0, brim + 0.03))
    clay.add("tomato", cylinder(0.228, 0.09, 0.02).moved(0, 0, brim + 0.06))
    clay.pair("wood", capsule((0, 0.8 * mid, z2 + 0.05), (0.06, mid + 0.4, z2 + 0.26), 0.05))
    clay.pair("wood", capsule((0.04, mid + 0.24, z2 + 0.17), (0.02, mid + 0.3, z2 + 0.36), 0.046))


def chair(clay: Clay) -> None:
    """A wooden chair; its cushion is the second paint."""
    width, seat, back = clay.vary(0.42), clay.vary(0.6), clay.vary(0.72)
    clay.add(PRIMARY, box(2 * width, 2 * width, 0.13, 0.05).moved(0, 0, seat))
    clay.add(SECONDARY, box(1.55 * width, 1.6 * width, 0.14, 0.068).moved(0.03, 0, seat + 0.08))
    inset = width - 0.09
    for x in (inset, -inset):
        clay.pair(PRIMARY, capsule((x, inset, seat), (1.06 * x, 1.06 * inset, 0.07), 0.085, 0.07))
    post = tube(spline([(-inset, inset, seat), (-inset - 0.04, inset, seat + 0.5 * back),
                        (-inset - 0.12, inset, seat + back)], 10), 0.075)  # fmt: skip
    clay.pair(PRIMARY, post)
    panel = np.concatenate([[(-inset, 0), (inset, 0)], arc(1.0, 12, 168, 11)
                            * [inset + 0.02, 0.18] + [0, 0.28]])  # fmt: skip
    clay.add(PRIMARY, prism(panel, 0.11, 0.045).turned("x", 90).turned("z", 90).turned("y", -8)
             .moved(-inset - 0.065, 0, seat + back - 0.32))  # fmt: skip


def sofa(clay: Clay) -> None:
    """A plump two-seater; its pillows are the second paint."""
    width, back, arm = clay.vary(0.78, 0.12), clay.vary(0.46), clay.vary(0.15)
    clay.add(PRIMARY, box(0.8, 2 * width, 0.3, 0.08).moved(0, 0, 0.27))
    clay.add(PRIMARY, *(box(0.62, width - 0.02, 0.2, 0.085).moved(0.1, y * 0.49 * width, 0.48)
                        for y in (-1, 1)))  # fmt: skip
    clay.add(PRIMARY, box(0.26, 2 * width, back + 0.34, 0.12).turned("y", -7)
             .moved(-0.33, 0, 0.2 + 0.5 * (back + 0.34)))  # fmt: skip
    rest = box(0.82, 2 * arm, 0.42, 0.08).moved(0, width + 0.04, 0.36)
    roll = capsule((-0.32, width + 0.04, 0.58), (0.32, width + 0.04, 0.58), arm + 0.03)
    clay.pair(PRIMARY, rest, roll)
    pillow = box(0.18, 0.36, 0.36, 0.088).turned("x", 12).turned("y", -20)
    clay.pair(SECONDARY, pillow.moved(-0.06, 0.52 * width, 0.72))
    for x in (0.3, -0.3):
        clay.pair("wood", frustum(0.06, 0.085, 0.18, 0.02).moved(x, width - 0.08, 0))


def table(clay: Clay) -> None:
    """A dining table; its runner and the bowl on it are the second paint."""
    length, width, height = clay.vary(0.52), clay.vary(0.74, 0.12), clay.vary(0.76)
    clay.add(PRIMARY, box(2 * length, 2 * width, 0.13, 0.05).moved(0, 0, height))
    clay.add(PRIMARY, box(2 * length - 0.2, 2 * width - 0.2, 0.14, 0.03).moved(0, 0, height - 0.1))
    for x in (length - 0.13, -length + 0.13):
        clay.pair(PRIMARY, frustum(0.075, 0.11, height, 0.03).moved(x, width - 0.13, 0))
    clay.add(SECONDARY, box(2 * length + 0.07, 0.5, 0.15, 0.035).moved(0, 0, height + 0.03))
    for x in (length + 0.005, -length - 0.005):
        clay.add(SECONDARY, box(0.08, 0.5, 0.26, 0.035).moved(x, 0, height - 0.02))
    bowl = [(0, 0), (0.15, 0.0), (0.24, 0.12), (0.27, 0.2), (0.22, 0.21), (0, 0.17)]
    clay.add("sky", lathe(spline(bowl, 20)[:-1]).moved(0, 0, height + 0.1))
    for turn, paint in ((10, "tomato"), (130, "tangerine"), (250, "leaf")):
        x, y = 0.1 * math.cos(math.radians(turn)), 0.1 * math.sin(math.radians(turn))
        clay.add(paint, ellipsoid(0.105).moved(x, y, height + 0.33))


def lamp(clay: Clay) -> None:
    """A table lamp with a wide shade; its foot is the second paint."""
    shade, rise, foot = clay.vary(0.56), clay.vary(0.62, 0.12), clay.vary(0.34)
    stem = clay.vary(0.62)
    base = [(0, 0), (1.0, 0.0), (1.02, 0.08), (0.8, 0.15), (0.4, 0.2), (0.34, 0.3), (0.6, 0.48),
            (0.62, 0.6), (0.36, 0.8), (0.24, 0.9), (0.22, 1.1), (0, 1.15)]  # fmt: skip
    profile = spline(base, 40) * np.array([foot, stem])
    profile[[0, -1], 0] = 0
    clay.add(SECONDARY, lathe(np.maximum(profile, 0)))
    low = stem + 0.02
    clay.add(PRIMARY, frustum(shade, 0.56 * shade, rise, 0.05).moved(0, 0, low))
    clay.add("gold", cylinder(0.86 * shade, 0.05, 0.02).moved(0, 0, low - 0.025))
    clay.add(SECONDARY, ellipsoid(0.085).moved(0, 0, low + rise + 0.05))


def teapot(clay: Clay) -> None:
    """A round teapot, spout forward; knob, foot and rim are the second paint."""
    width, height, spout = clay.vary(0.62, 0.12), clay.vary(0.84, 0.12), clay.vary(0.36)
    belly = [(0, 0.06), (0.6, 0.06), (0.86, 0.22), (1.0, 0.5), (0.92, 0.76), (0.64, 0.96), (0, 1.0)]
    profile = spline(belly, 30) * np.array([width, height])
    profile[[0, -1], 0] = 0
    clay.add(PRIMARY, lathe(profile))
    clay.add(SECONDARY, cylinder(0.58 * width, 0.1, 0.04).moved(0, 0, 0))
    clay.add(SECONDARY, torus(0.6 * width, 0.06).moved(0, 0, 0.95 * height))
    lid = spline([(0.58, 0.0), (0.52, 0.1), (0.3, 0.19), (0.02, 0.22)], 12)
    clay.add(PRIMARY, lathe(lid * np.array([width, 1.0])).moved(0, 0, 0.95 * height))
    clay.add(SECONDARY, ellipsoid(clay.vary(0.11)).moved(0, 0, 0.95 * height + 0.28))
    curve = [(0.75 * width, 0, 0.36 * height), (width + 0.4 * spout, 0, 0.5 * height),
             (width + 0.6 * spout, 0, 0.82 * height),
             (width + spout, 0, 1.05 * height)]  # fmt: skip
    clay.add(PRIMARY, tube(spline(curve, 20), np.linspace(0.19, 0.09, 20)))
    clay.add(SECONDARY, torus(0.085, 0.045).turned("y", 35)
             .moved(width + spout + 0.03, 0, 1.05 * height + 0.06))  # fmt: skip
    grip = spline([(-0.8 * width, 0, 0.82 * height), (-width - 0.2, 0, 0.9 * height),
                   (-width - 0.36, 0, 0.6 * height), (-width - 0.16, 0, 0.3 * height),
                   (-0.85 * width, 0, 0.3 * height)], 24)  # fmt: skip
    clay.add(PRIMARY, tube(grip, 0.085))


def mug(clay: Clay) -> None:
    """A mug of cocoa with a heart on it; heart and rim are the second paint."""
    radius, height, grip = clay.vary(0.46, 0.12), clay.vary(0.94), clay.vary(0.3)
    cup = [(0, 0), (0.86 * radius, 0.0), (0.98 * radius, 0.12), (radius, height),
           (radius - 0.1, height), (radius - 0.11, height - 0.16), (0, height - 0.17)]  # fmt: skip
    clay.add(PRIMARY, lathe(rounded(cup, 0.06)))
    clay.add(SECONDARY, torus(radius - 0.04, 0.075).moved(0, 0, height - 0.01))
    clay.add("cocoa", cylinder(radius - 0.06, 0.12, 0.02).moved(0, 0, height - 0.22))
    clay.add("snow", *(ellipsoid(0.11, 0.11, 0.08).moved(x, y, height - 0.08)
                       for x, y in ((0.13, 0.1), (-0.1, -0.12))))  # fmt: skip
    angle = np.radians(np.linspace(-90, 90, 20))
    curve = np.stack([np.zeros(20), 0.9 * radius + 1.15 * grip * np.cos(angle),
                      0.5 * height + grip * np.sin(angle)], axis=-1)  # fmt: skip
    clay.add(PRIMARY, tube(curve, 0.085))
    half = spline([(0, -0.25), (0.16, -0.1), (0.26, 0.06), (0.23, 0.19), (0.12, 0.22), (0, 0.11)],
                  16)  # fmt: skip
    heart = 0.86 * np.concatenate([half, half[-2:0:-1] * [-1, 1]])
    clay.add(SECONDARY, prism(heart, 0.16, 0.02).turned("x", 90).turned("z", 90)
             .moved(radius - 0.055, 0, 0.5 * height))  # fmt: skip


def mushroom(clay: Clay) -> None:
    """A toadstool; its stem is the second paint, the dots on its cap are white."""
    cap, rise, stem = clay.vary(0.74, 0.12), clay.vary(0.52), clay.vary(0.27)
    height = clay.vary(0.66)
    foot = [(0, 0), (0.9, 0.0), (1.22, 0.12), (1.12, 0.34), (0.9, 0.7), (0.96, 1.05), (0, 1.1)]
    profile = spline(foot, 24) * np.array([stem, height])
    profile[[0, -1], 0] = 0
    clay.add(SECONDARY, lathe(np.maximum(profile, [0, 0])))
    hood = [(0, -0.02), (0.7, -0.06), (0.96, -0.1), (1.0, 0.04), (0.93, 0.3), (0.72, 0.66),
            (0.4, 0.92), (0, 1.0)]  # fmt: skip
    outline = spline(hood, 30) * np.array([cap, rise])
    outline[[0, -1], 0] = 0
    clay.add(PRIMARY, lathe(outline).moved(0, 0, height))
    clay.add("cream", ellipsoid(0.8 * cap, 0.8 * cap, 0.08).moved(0, 0, height - 0.02))
    spots = [(90, 0, 0.16), (48, 20, 0.15), (44, 92, 0.13), (50, 160, 0.15), (45, 232, 0.14),
             (49, 302, 0.13), (16, 54, 0.11), (14, 126, 0.11), (16, 196, 0.12), (13, 268, 0.11),
             (16, 340, 0.11)]  # fmt: skip
    for lift, turn, size in spots:
        a = math.radians(lift)
        at = (0.97 * cap * math.cos(a) ** 0.8, 0, height + 0.98 * rise * math.sin(a) ** 0.9)
        slope = math.degrees(math.atan2(cap * math.sin(a), rise * math.cos(a)))
        disc = ellipsoid(0.05, size, size).turned("y", -slope).moved(*at)
        clay.add("dots", disc.turned("z", turn))


def tree(clay: Clay) -> None:
    """A leafy tree with fruit; its trunk is the second paint."""
    crown, trunk, height = clay.vary(0.44, 0.12), clay.vary(0.17), clay.vary(0.62)
    clay.add(SECONDARY, lathe(spline([(1.7 * trunk, 0), (1.15 * trunk, 0.12), (trunk, 0.35),
                                      (1.05 * trunk, height + 0.3)], 14)))  # fmt: skip
    clay.add(SECONDARY, capsule((0, 0.05, 0.8 * height), (0.05, 0.34, height + 0.22), 0.08))
    blobs = [(0.0, 0.0, 0.62, 1.12), (0.3, 0.12, 0.3, 0.8), (-0.16, 0.34, 0.28, 0.82),
             (-0.3, -0.12, 0.32, 0.8), (0.14, -0.34, 0.28, 0.84)]  # fmt: skip
    for x, y, z, size in blobs:
        ball = ellipsoid(size * crown, size * crown, 0.94 * size * crown)
        clay.add(PRIMARY, ball.moved(x, y, height + z))
    fruit = [(10, 25), (75, 42), (130, 12), (190, 32), (250, 20), (305, 45), (340, -8)]
    for turn, lift in fruit:
        a, b = math.radians(turn), math.radians(lift)
        x, y, z = math.cos(a) * math.cos(b), math.sin(a) * math.cos(b), math.sin(b)
        clay.add("tomato", ellipsoid(0.085).moved(
            0.63 * x * crown / 0.44, 0.63 * y * crown / 0.44, height + 0.44 + 0.5 * z))  # fmt: skip


def cactus(clay: Clay) -> None:
    """A cactus with two arms and a flower; its pot is the second paint."""
    radius, height, arm = clay.vary(0.27), clay.vary(0.95), clay.vary(0.34)
    pot = [(0, 0), (0.3, 0.0), (0.38, 0.34), (0.45, 0.34), (0.45, 0.48), (0, 0.48)]
    clay.add(SECONDARY, lathe(rounded(pot, 0.04)))
    clay.add("cocoa", cylinder(0.38, 0.06, 0.02).moved(0, 0, 0.45))
    end = radius * arc(1.0, 0, 90, 8)
    end[-1, 0] = 0
    stem = np.concatenate([[(0.86 * radius, 0)], end + np.array([0, height - radius])])
    clay.add(PRIMARY, lathe(stem, 48, (8, 0.1)).moved(0, 0, 0.44))
    low, high = 0.44 + 0.3 * height, 0.44 + 0.48 * height
    left = spline([(0, 0.1, low), (0, radius + 0.17, low), (0, radius + 0.26, low + 0.12),
                   (0, radius + 0.26, low + arm)], 18)  # fmt: skip
    right = spline([(0, -0.1, high), (0, -radius - 0.16, high), (0, -radius - 0.25, high + 0.12),
                    (0, -radius - 0.25, high + 0.8 * arm)], 18)  # fmt: skip
    clay.add(PRIMARY, tube(left, 0.135), tube(right, 0.12))
    top = 0.44 + height
    for turn in range(0, 360, 72):
        petal = ellipsoid(0.13, 0.09, 0.055).turned("y", -28).moved(0.11, 0, 0.03)
        clay.add("rose", petal.turned("z", turn).moved(0, 0, top))
    clay.add("gold", ellipsoid(0.075).moved(0, 0, top + 0.05))


def cupcake(clay: Clay) -> None:
    """A cupcake with swirled icing, sprinkles and a cherry; its paper cup is the second paint."""
    radius, height, swirl = clay.vary(0.54, 0.12), clay.vary(0.5), clay.vary(0.62)
    cup = rounded([(0, 0), (0.74 * radius, 0), (radius, height), (0, height)], 0.04)
    clay.add(SECONDARY, lathe(cup, 48, (12, 0.05)))
    rings = [(0.98, 0.0, 0.2), (0.76, 0.28, 0.19), (0.5, 0.54, 0.18), (0.2, 0.78, 0.17)]
    clay.add(PRIMARY, lathe(spline([(1.0, -0.1), (0.96, 0.1), (0.6, 0.6), (0.02, 1.05)], 14)
                            * [radius, swirl]).moved(0, 0, height))  # fmt: skip
    for wide, z, thick in rings:
        clay.add(PRIMARY, torus(wide * radius - 0.04, thick)
                 .scaled(z=0.8).moved(0, 0, height + z * swirl + 0.04))  # fmt: skip
    clay.add("tomato", ellipsoid(0.16).moved(0, 0, height + 1.22 * swirl + 0.02))
    paints = ("snow", "gold", "sky", "rose", "leaf")
    for i in range(15):
        wide, z, thick = rings[i % 3]
        turn = 137.5 * i
        seed = capsule((0, -0.05, 0), (0, 0.05, 0), 0.034).turned("x", 40 * i % 180)
        out, up = wide * radius - 0.04 + 0.82 * thick, height + z * swirl + 0.04 + 0.4 * thick
        seed = seed.moved(out, 0, up)
        clay.add(paints[i % 5], seed.turned("z", turn))


def ice_cream(clay: Clay) -> None:
    """A scoop on a waffle cone; the second paint is the smaller scoop on top."""
    scoop, cone, small = clay.vary(0.54, 0.12), clay.vary(0.66), clay.vary(0.35, 0.12)
    tip = rounded([(0, 0), (0.09, 0), (0.8 * scoop, cone), (0, cone)], 0.05)
    clay.add("waffle", lathe(tip))
    clay.add("waffle", torus(0.79 * scoop, 0.075).moved(0, 0, cone - 0.02))
    middle = cone + 0.6 * scoop
    clay.add(PRIMARY, ellipsoid(scoop, scoop, 0.92 * scoop).moved(0, 0, middle))
    for i in range(8):
        frill = ellipsoid(0.17, 0.19, 0.13).moved(0.88 * scoop, 0, cone + 0.13 + 0.04 * (i % 2))
        clay.add(PRIMARY, frill.turned("z", 45 * i))
    top = middle + 0.8 * scoop + 0.3 * small
    clay.add(SECONDARY, ellipsoid(small, small, 0.92 * small).moved(0, 0, top))
    clay.add("tomato", ellipsoid(0.13).moved(0, 0, top + small))
    clay.add("cocoa", capsule((0, 0.2, middle + 0.6 * scoop), (0.0, 0.46, top + 0.26), 0.07))

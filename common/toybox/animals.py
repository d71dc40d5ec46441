"""The animals of the toybox, each a function that kneads one object; all look along +X."""

from __future__ import annotations

import numpy as np

from .clay import PRIMARY, SECONDARY, Clay, on_ellipsoid
from .shapes import capsule, ellipsoid, frustum, hull, lathe, prism, rounded, spline, torus, tube


def _cheeks(clay: Clay, head: tuple[float, float, float], at: tuple[float, float, float],
            y: float, z: float, radius: float) -> None:  # fmt: skip
    """Two rosy cheeks on an ellipsoidal head with half axes `head` about `at`."""
    x, y, z = on_ellipsoid(head, y, z, 0.35 * radius)
    clay.pair("rose", ellipsoid(0.6 * radius, radius, 0.75 * radius)
              .moved(at[0] + x, at[1] + y, at[2] + z))  # fmt: skip


def cat(clay: Clay) -> None:
    """A sitting cat, its tail curled up; belly, muzzle and tail tip are the second paint."""
    width, size = clay.vary(0.42), clay.vary(0.44, 0.1)
    body = [(0, 0), (0.9, 0.02), (1.0, 0.2), (0.94, 0.42), (0.72, 0.72), (0.45, 1.0), (0, 1.1)]
    profile = spline(body, 22) * np.array([width, 0.85])
    profile[[0, -1], 0] = 0
    clay.add(PRIMARY, lathe(profile).scaled(x=1.12))
    head, top = (0.88 * size, 1.06 * size, 0.86 * size), 1.14
    clay.add(PRIMARY, ellipsoid(*head).moved(0.1, 0, top))
    clay.add(SECONDARY, ellipsoid(0.2, 0.26, 0.33).moved(0.33 * width / 0.42, 0, 0.42))
    ear = clay.vary(0.38)
    cone = frustum(0.19, 0.045, ear, 0.05).scaled(x=0.62)
    inner = frustum(0.11, 0.03, 0.72 * ear, 0.03).scaled(x=0.4).moved(0.075, 0, 0.02)
    for paint, solid in ((PRIMARY, cone), ("rose", inner)):
        clay.pair(paint, solid.turned("x", -18).moved(0.08, 0.58 * size, top + 0.58 * size))
    clay.add(SECONDARY, *(
        ellipsoid(0.11, 0.13, 0.1).moved(0.1 + 0.84 * size, side, top - 0.14)
        for side in (-0.08, 0.08)
    ))  # fmt: skip
    clay.add("rose", ellipsoid(0.06, 0.075, 0.05).moved(0.2 + 0.84 * size, 0, top - 0.05))
    x, y, z = on_ellipsoid(head, 0.2, 0.06, 0.03)
    clay.eyes(0.1 + x, y, top + z, 0.085)
    clay.pair(PRIMARY, capsule((0.3, 0.16, 0.5), (0.4, 0.15, 0.1), 0.1))
    clay.pair(SECONDARY, ellipsoid(0.15, 0.12, 0.09).moved(0.46, 0.15, 0.09))
    clay.pair(PRIMARY, ellipsoid(0.28, 0.17, 0.26).moved(0.02, 0.33, 0.22))
    tail = clay.vary(1.0)
    curve = [(-0.3, 0, 0.12), (-0.62, 0, 0.12), (-0.8, 0, 0.4), (-0.68, 0, 0.7 * tail),
             (-0.76, 0, 0.98 * tail)]  # fmt: skip
    line = spline(curve, 22)
    clay.add(PRIMARY, tube(line, 0.095))
    clay.add(SECONDARY, tube(line[-5:], 0.105))


def dog(clay: Clay) -> None:
    """A standing puppy with floppy ears and a collar; ears, muzzle and tail tip second."""
    length, legs = clay.vary(0.36), clay.vary(0.34)
    hip = legs + 0.22
    clay.add(PRIMARY, ellipsoid(length + 0.22, 0.31, 0.3).moved(-0.08, 0, hip))
    for x in (length - 0.16, -length + 0.02):
        clay.pair(PRIMARY, capsule((x, 0.17, hip), (x, 0.18, 0.12), 0.13))
        clay.pair(SECONDARY, ellipsoid(0.17, 0.135, 0.1).moved(x + 0.05, 0.18, 0.095))
    size = clay.vary(0.4, 0.1)
    head, at = (0.95 * size, size, 0.95 * size), (length + 0.08, 0.0, hip + 0.44)
    clay.add(PRIMARY, ellipsoid(*head).moved(*at))
    clay.add("tomato", torus(0.22, 0.065).turned("y", 28).moved(length - 0.02, 0, hip + 0.18))
    clay.add("gold", ellipsoid(0.05, 0.07, 0.07).moved(length + 0.22, 0, hip + 0.06))
    muzzle = at[0] + 0.85 * size
    clay.add(SECONDARY, ellipsoid(0.2, 0.19, 0.15).moved(muzzle, 0, at[2] - 0.1))
    clay.add("pupil", ellipsoid(0.07, 0.085, 0.065).moved(muzzle + 0.18, 0, at[2] - 0.03))
    clay.add("rose", ellipsoid(0.1, 0.07, 0.045).turned("y", 30)
             .moved(muzzle + 0.1, 0, at[2] - 0.245))  # fmt: skip
    x, y, z = on_ellipsoid(head, 0.15, 0.1, 0.03)
    clay.eyes(at[0] + x, y, at[2] + z, 0.075)
    ear = clay.vary(0.3)
    flap = ellipsoid(0.14, 0.075, ear).moved(0, 0, -0.75 * ear).turned("x", 14)
    clay.pair(SECONDARY, flap.moved(at[0] - 0.06, 0.9 * size, at[2] + 0.26))
    tail = spline([(-length - 0.15, 0, hip + 0.08), (-length - 0.34, 0, hip + 0.22),
                   (-length - 0.38, 0, hip + 0.46)], 12)  # fmt: skip
    clay.add(PRIMARY, tube(tail, np.linspace(0.1, 0.075, 12)))
    clay.add(SECONDARY, tube(tail[-4:], 0.09))


def rabbit(clay: Clay) -> None:
    """A sitting rabbit with long upright ears; belly, feet and puff of a tail second."""
    width, ear, size = clay.vary(0.38), clay.vary(0.36, 0.2), clay.vary(0.36, 0.1)
    clay.add(PRIMARY, ellipsoid(1.08 * width, width, 0.46).moved(-0.02, 0, 0.44))
    clay.add(SECONDARY, ellipsoid(0.18, 0.26, 0.32).moved(1.08 * width - 0.17, 0, 0.42))
    head, at = (0.95 * size, 1.02 * size, 0.9 * size), (0.1, 0.0, 1.06)
    clay.add(PRIMARY, ellipsoid(*head).moved(*at))
    clay.pair(PRIMARY, ellipsoid(0.085, 0.125, ear).moved(0, 0, 0.8 * ear).turned("x", -9)
              .turned("y", -6).moved(0.06, 0.15, at[2] + 0.72 * size))  # fmt: skip
    clay.pair("rose", ellipsoid(0.06, 0.075, 0.78 * ear).moved(0.045, 0, 0.8 * ear)
              .turned("x", -9).turned("y", -6).moved(0.06, 0.15, at[2] + 0.72 * size))  # fmt: skip
    lip = ellipsoid(0.11, 0.11, 0.09)
    clay.pair(SECONDARY, lip.moved(at[0] + 0.85 * size, 0.075, at[2] - 0.11))
    clay.add("rose", ellipsoid(0.055, 0.06, 0.045).moved(at[0] + 0.98 * size, 0, at[2] - 0.03))
    x, y, z = on_ellipsoid(head, 0.17, 0.05, 0.03)
    clay.eyes(at[0] + x, y, at[2] + z, 0.08)
    _cheeks(clay, head, at, 0.25, -0.1, 0.07)
    clay.pair(SECONDARY, ellipsoid(0.25, 0.13, 0.11).moved(0.36, 0.2, 0.11))
    clay.pair(PRIMARY, ellipsoid(0.27, 0.16, 0.27).moved(0.0, 0.27, 0.25))
    clay.pair(PRIMARY, capsule((0.22, 0.26, 0.66), (0.4, 0.15, 0.5), 0.085))
    clay.add(SECONDARY, ellipsoid(clay.vary(0.16)).moved(-1.08 * width - 0.06, 0, 0.3))


def bear(clay: Clay) -> None:
    """A sitting teddy bear; muzzle, belly patch, pads and inner ears second."""
    width, size = clay.vary(0.42), clay.vary(0.4, 0.1)
    clay.add(PRIMARY, ellipsoid(0.92 * width, width, 0.46).moved(0, 0, 0.46))
    clay.add(SECONDARY, ellipsoid(0.14, 0.27, 0.28).moved(0.92 * width - 0.1, 0, 0.46))
    head, at = (0.92 * size, 1.05 * size, 0.92 * size), (0.06, 0.0, 1.16)
    clay.add(PRIMARY, ellipsoid(*head).moved(*at))
    ear = clay.vary(0.17)
    ear_at = (0.02, 0.78 * size, at[2] + 0.7 * size)
    clay.pair(PRIMARY, ellipsoid(0.6 * ear, ear, ear).moved(*ear_at))
    clay.pair(SECONDARY, ellipsoid(0.4 * ear, 0.6 * ear, 0.6 * ear)
              .moved(ear_at[0] + 0.4 * ear, *ear_at[1:]))  # fmt: skip
    muzzle = at[0] + 0.8 * size
    clay.add(SECONDARY, ellipsoid(0.17, 0.19, 0.15).moved(muzzle, 0, at[2] - 0.1))
    clay.add("pupil", ellipsoid(0.06, 0.08, 0.055).moved(muzzle + 0.15, 0, at[2] - 0.03))
    x, y, z = on_ellipsoid(head, 0.17, 0.08, 0.02)
    clay.eyes(at[0] + x, y, at[2] + z, 0.07)
    arm, leg = clay.vary(0.14), clay.vary(0.17)
    clay.pair(PRIMARY, capsule((0.05, 0.36, 0.72), (0.32, 0.52, 0.46), arm, 1.1 * arm))
    clay.pair(PRIMARY, capsule((0.1, 0.28, 0.2), (0.48, 0.36, 0.19), leg, 1.1 * leg))
    clay.pair(SECONDARY, ellipsoid(0.07, 0.125, 0.125).moved(0.48 + 1.0 * leg, 0.37, 0.2))
    clay.add(PRIMARY, ellipsoid(0.12).moved(-0.92 * width, 0, 0.2))


def elephant(clay: Clay) -> None:
    """A standing elephant with big ears and a raised trunk; inner ears and toes second."""
    width, legs, ear = clay.vary(0.42), clay.vary(0.34), clay.vary(0.36)
    hip = legs + 0.32
    clay.add(PRIMARY, ellipsoid(0.6, width, 0.44).moved(-0.14, 0, hip))
    for x in (0.22, -0.44):
        clay.pair(PRIMARY, frustum(0.19, 0.17, hip, 0.06).moved(x, 0.22, 0))
        clay.pair(SECONDARY, ellipsoid(0.08, 0.13, 0.07).moved(x + 0.14, 0.22, 0.07))
    head, at = (0.38, 0.4, 0.39), (0.46, 0.0, hip + 0.26)
    clay.add(PRIMARY, ellipsoid(*head).moved(*at))
    trunk = clay.vary(1.0)
    curve = spline([(0.66, 0, at[2] - 0.06), (0.9, 0, at[2] - 0.22), (1.02, 0, at[2] - 0.45),
                    (1.2, 0, at[2] - 0.5 * trunk), (1.3, 0, at[2] - 0.28 * trunk)], 22)  # fmt: skip
    clay.add(PRIMARY, tube(curve, np.linspace(0.18, 0.1, 22)))
    tusk = [(0.7, 0.2, at[2] - 0.2), (0.86, 0.24, at[2] - 0.3), (0.98, 0.24, at[2] - 0.24)]
    clay.pair("snow", tube(spline(tusk, 10), np.linspace(0.075, 0.045, 10)))
    disc = ellipsoid(0.085, ear, 1.08 * ear)
    pad = ellipsoid(0.06, 0.72 * ear, 0.78 * ear).moved(0.055, 0, 0)
    for paint, solid in ((PRIMARY, disc), (SECONDARY, pad)):
        clay.pair(paint, solid.turned("z", 30).moved(0.36, 0.28 + 0.8 * ear, at[2] + 0.08))
    x, y, z = on_ellipsoid(head, 0.19, 0.1, 0.03)
    clay.eyes(at[0] + x, y, at[2] + z, 0.07)
    tail = spline([(-0.66, 0, hip + 0.1), (-0.82, 0, hip), (-0.84, 0, hip - 0.22)], 8)
    clay.add(PRIMARY, tube(tail, 0.05))
    clay.add("ink", ellipsoid(0.075, 0.075, 0.1).moved(-0.84, 0, hip - 0.28))


def duck(clay: Clay) -> None:
    """A bathtub duck; beak second."""
    width, size, tail = clay.vary(0.46), clay.vary(0.36, 0.1), clay.vary(0.3)
    body = [(-0.74, 0.42 + tail, 0.04, 0.04, 2), (-0.62, 0.54, 0.22, 0.18, 2),
            (-0.4, 0.38, 0.84 * width, 0.34, 2), (0.0, 0.34, width, 0.36, 2.2),
            (0.38, 0.38, 0.84 * width, 0.36, 2.1), (0.62, 0.44, 0.25, 0.2, 2),
            (0.68, 0.46, 0.02, 0.02, 2)]  # fmt: skip
    clay.add(PRIMARY, hull(body, 30))
    head, at = (size, 0.97 * size, 0.97 * size), (0.32, 0.0, 0.98)
    clay.add(PRIMARY, ellipsoid(*head).moved(*at))
    for lift in (28, 70):
        tuft = ellipsoid(0.075, 0.075, 0.13).moved(0, 0, size + 0.02).turned("y", -lift)
        clay.add(PRIMARY, tuft.moved(*at))
    bill = at[0] + 0.92 * size
    clay.add(SECONDARY, ellipsoid(0.27, 0.2, 0.075).turned("y", -10).moved(bill, 0, at[2] - 0.06))
    clay.add(SECONDARY, ellipsoid(0.2, 0.15, 0.06).turned("y", 8).moved(bill, 0, at[2] - 0.13))
    x, y, z = on_ellipsoid(head, 0.18, 0.1, 0.03)
    clay.eyes(at[0] + x, y, at[2] + z, 0.075)
    _cheeks(clay, head, at, 0.26, -0.09, 0.065)
    wing = [(0.3, 0.42, 0.06, 0.05, 2), (0.18, 0.42, 0.1, 0.17, 2), (-0.12, 0.44, 0.12, 0.2, 2),
            (-0.4, 0.54, 0.08, 0.11, 2), (-0.56, 0.66, 0.03, 0.03, 2)]  # fmt: skip
    clay.pair(PRIMARY, hull(wing, 16, 24).turned("z", -4).moved(0, width - 0.03, 0.0))


def penguin(clay: Clay) -> None:
    """A plump penguin; belly and face second."""
    width, flipper = clay.vary(0.46), clay.vary(0.34)
    outline = [(0, 0.06), (0.72, 0.07), (0.98, 0.3), (1.0, 0.55), (0.84, 0.9), (0.7, 1.15),
               (0.62, 1.35), (0.35, 1.55), (0, 1.6)]  # fmt: skip
    profile = spline(outline, 28) * np.array([width, 1.0])
    profile[[0, -1], 0] = 0
    clay.add(PRIMARY, lathe(profile).scaled(x=0.95))
    front = 0.95 * width
    clay.add(SECONDARY, ellipsoid(0.25, 0.8 * width, 0.42).moved(front - 0.19, 0, 0.52))
    clay.pair(SECONDARY, ellipsoid(0.12, 0.15, 0.17).moved(0.7 * front - 0.04, 0.115, 1.22))
    clay.eyes(0.7 * front + 0.07, 0.12, 1.25, 0.07, "pupil")
    clay.add("tangerine", frustum(0.11, 0.03, 0.24, 0.03).scaled(x=0.75).turned("y", 92)
             .moved(0.7 * front, 0, 1.13))  # fmt: skip
    clay.pair("rose", ellipsoid(0.05, 0.065, 0.05).moved(0.7 * front + 0.02, 0.21, 1.09))
    wing = ellipsoid(0.15, 0.075, flipper).moved(0, 0, -0.8 * flipper)
    clay.pair(PRIMARY, wing.turned("x", 26).moved(0, 0.74 * width, 0.98))
    clay.pair("tangerine", ellipsoid(0.24, 0.16, 0.085).turned("z", 14).moved(0.24, 0.2, 0.08))
    clay.add(PRIMARY, ellipsoid(0.22, 0.14, 0.1).turned("y", -20).moved(-width + 0.03, 0, 0.17))


def owl(clay: Clay) -> None:
    """A round owl with big spectacled eyes; face discs and belly second."""
    width, tuft, wing = clay.vary(0.5), clay.vary(0.3), clay.vary(0.4)
    clay.add(PRIMARY, ellipsoid(0.86 * width, width, 0.66).moved(0, 0, 0.68))
    front = 0.86 * width
    clay.add(SECONDARY, ellipsoid(0.24, 0.68 * width, 0.36).moved(front - 0.19, 0, 0.45))
    clay.pair(SECONDARY, ellipsoid(0.12, 0.235, 0.235).turned("z", 20)
              .moved(front - 0.14, 0.2, 0.96))  # fmt: skip
    clay.eyes(front - 0.035, 0.205, 0.96, 0.125, "pupil")
    clay.add("tangerine", frustum(0.1, 0.03, 0.2, 0.03).scaled(y=0.8).turned("y", 130)
             .moved(front - 0.09, 0, 0.89))  # fmt: skip
    cone = frustum(0.17, 0.04, tuft, 0.04).scaled(x=0.7)
    clay.pair(PRIMARY, cone.turned("x", -30).moved(0.02, 0.26, 1.13))
    fold = ellipsoid(0.27, 0.1, wing).turned("x", -8).turned("y", -14)
    clay.pair(PRIMARY, fold.moved(-0.06, 0.93 * width, 0.6))
    for y in (0.1, 0.22):
        clay.pair("tangerine", ellipsoid(0.12, 0.065, 0.065).moved(0.3, y, 0.06))
    clay.add(PRIMARY, ellipsoid(0.2, 0.2, 0.07).turned("y", -42).moved(-front + 0.02, 0, 0.2))


def fish(clay: Clay) -> None:
    """A round little fish; fins and tail second."""
    width, height, tail = clay.vary(0.36), clay.vary(0.5), clay.vary(0.42)
    body = [(0.72, 0.0, 0.05, 0.08, 2), (0.64, 0.0, 0.17, 0.22, 2),
            (0.35, 0.0, 0.95 * width, 0.88 * height, 2), (0.0, 0.0, width, height, 2),
            (-0.4, 0.0, 0.62 * width, 0.6 * height, 2), (-0.72, 0.0, 0.09, 0.12, 2),
            (-0.8, 0.0, 0.02, 0.05, 2)]  # fmt: skip
    clay.add(PRIMARY, hull(body, 30))
    fan = [(0.12, -0.05), (0.12, 0.05), (-0.34, 0.46), (-0.52, 0.4), (-0.4, 0.1), (-0.34, 0.0),
           (-0.4, -0.1), (-0.52, -0.4), (-0.34, -0.46)]  # fmt: skip
    outline = np.array(fan) * np.array([1.0, tail / 0.42])
    clay.add(SECONDARY, prism(outline, 0.1, 0.03, 0.1).turned("x", 90).moved(-0.74, 0, 0))
    back = [(0.3, -0.2), (0.14, 0.2), (-0.3, 0.26), (-0.42, 0.1), (-0.3, -0.2)]
    clay.add(SECONDARY, prism(back, 0.1, 0.03, 0.1).turned("x", 90).moved(0, 0, height - 0.04))
    keel = [(0.1, 0.15), (-0.2, 0.15), (-0.32, -0.12), (-0.1, -0.14)]
    clay.add(SECONDARY, prism(keel, 0.09, 0.03, 0.07).turned("x", 90).moved(0, 0, -height + 0.04))
    fin = ellipsoid(0.2, 0.05, 0.13).moved(-0.16, 0, 0).turned("y", 25).turned("z", -32)
    clay.pair(SECONDARY, fin.moved(0.2, 0.9 * width, -0.1))
    clay.pair("snow", ellipsoid(0.13, 0.07, 0.13).turned("z", -28).moved(0.46, 0.78 * width, 0.13))
    clay.pair("pupil", ellipsoid(0.075, 0.06, 0.085).turned("z", -28)
              .moved(0.49, 0.78 * width + 0.045, 0.13))  # fmt: skip
    clay.add("rose", torus(0.075, 0.045).turned("y", 90).moved(0.71, 0, -0.04))


def turtle(clay: Clay) -> None:
    """A turtle with a high dome of a shell; head, legs and tail second."""
    length, height, neck = clay.vary(0.66), clay.vary(0.6), clay.vary(0.3)
    dome = [(0, 0.16), (0.94, 0.17), (1.04, 0.22), (1.0, 0.3), (0.93, 0.42), (0.74, 0.62),
            (0.42, 0.8), (0, 0.86)]  # fmt: skip
    profile = spline(dome, 26) * np.array([length, height / 0.6])
    profile[[0, -1], 0] = 0
    clay.add(PRIMARY, lathe(profile).scaled(y=0.84))
    clay.add("cream", lathe(rounded([(0, 0.1), (0.9 * length, 0.12), (0.9 * length, 0.24),
                                     (0, 0.24)], 0.08)).scaled(y=0.84))  # fmt: skip
    for x, turn in ((0.42, 40), (-0.42, 140)):
        leg = ellipsoid(0.25, 0.15, 0.13).turned("y", 18).moved(0.12, 0, 0).turned("z", turn)
        clay.pair(SECONDARY, leg.moved(x * length / 0.66, 0.34, 0.13))
    reach = length + neck
    clay.add(SECONDARY, capsule((0.5 * length, 0, 0.22), (reach, 0, 0.5), 0.15, 0.17))
    head, at = (0.25, 0.24, 0.23), (reach + 0.04, 0.0, 0.56)
    clay.add(SECONDARY, ellipsoid(*head).moved(*at))
    x, y, z = on_ellipsoid(head, 0.12, 0.07, 0.02)
    clay.eyes(at[0] + x, y, at[2] + z, 0.07, "pupil")
    _cheeks(clay, head, at, 0.17, -0.04, 0.05)
    clay.add(SECONDARY, capsule((-0.9 * length, 0, 0.2), (-1.28 * length, 0, 0.13), 0.1, 0.05))

"""A run's folder as a finished run leaves it, made of a ball and a few pictures in no time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from maquette.common.config.reading import build_config
from maquette.common.runs.folder import Run, open_or_create

RED = (220, 30, 30)
Color = tuple[int, int, int]


def ball(folder: Path, color: Color = RED, name: str = "ball") -> Path:
    """A textured ball as an export leaves it; its GLB."""
    folder.mkdir(parents=True)
    mesh = trimesh.creation.uv_sphere(radius=0.8, count=[16, 16])
    uv = np.stack([mesh.vertices[:, 0], mesh.vertices[:, 1]], axis=-1) * 0.3 + 0.5
    image = Image.new("RGB", (16, 16), color)
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0
    )
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    mesh.export(folder / f"{name}.glb")
    report = {"glb": f"{name}.glb", "obj": f"{name}.obj", "faces_out": len(mesh.faces)}
    (folder / "report.json").write_text(json.dumps(report))
    return folder / f"{name}.glb"


def made_run(place: Path, name: str, seed: int = 0, color: Color = RED) -> Run:
    """A finished run of "a red mushroom" in `place/name`."""
    config = build_config("a red mushroom", overrides=[f"seed={seed}"])
    run = open_or_create(config, str(place / name))
    ball(run.export, color, name)
    (run.coarse / "growth").mkdir(parents=True)
    Image.new("RGB", (384, 384), (0, 200, 200)).save(run.coarse / "growth" / "000003.png")
    run.fine.mkdir()
    Image.new("RGB", (64, 16), (0, 200, 0)).save(run.fine / "handoff.png")
    Image.new("RGB", (64, 64), (200, 0, 200)).save(run.fine / "poster.png")
    Image.new("RGB", (40, 40), (0, 0, 200)).save(run.folder / "growth.webp")
    run.event("stage finished", stage="coarse", seconds=41.5, steps=500)
    return run

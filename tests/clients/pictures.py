"""A model as another program shows it, from the project's own cameras, in its texture alone."""

from __future__ import annotations

import base64
import importlib.util
import io
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maquette.common.scene.cameras import Cameras
from maquette.common.view.three import three_js
from tests.browser import browser

SCRIPT = Path(__file__).with_name("blender_look.py")
BEHIND = 0.5  # grey, as the project's own unlit views have it
_PAGE = """<!doctype html><meta charset="utf-8"><body><canvas id="c" width="{0}" height="{0}"
 style="width:{0}px"></canvas><script>"""
_LOOK = """
async function look(file, size, cameras) {
  const bytes = Uint8Array.from(atob(file), c => c.charCodeAt(0));
  const gltf = await new Promise((good, bad) =>
    new THREE.GLTFLoader().parse(bytes.buffer, "", good, bad));
  const canvas = document.getElementById("c");
  const renderer = new THREE.WebGLRenderer({canvas, alpha: true, antialias: true,
    preserveDrawingBuffer: true});
  renderer.setSize(size, size, false);
  renderer.outputEncoding = THREE.sRGBEncoding;
  renderer.setClearColor(0, 0);
  gltf.scene.traverse(o => { if (o.isMesh)
    o.material = new THREE.MeshBasicMaterial({map: o.material.map, side: o.material.side}); });
  const scene = new THREE.Scene();
  scene.add(gltf.scene);
  return cameras.map(([x, y, z, fovy]) => {
    const eye = new THREE.PerspectiveCamera(fovy * 180 / Math.PI, 1, 0.1, 20);
    eye.position.set(x, y, z);
    eye.lookAt(0, 0, 0);
    renderer.render(scene, eye);
    return canvas.toDataURL("image/png").split(",")[1];
  });
}
"""


def by_three(path: Path, cameras: Cameras, size: int) -> Tensor:
    """Views `[B, size, size, 3]` of a GLB by three.js in a headless Chromium.

    The test is skipped where there is none.
    """
    x, y, z = cameras.position.T
    told = torch.stack([y, z, x, cameras.fovy], dim=1).tolist()  # Y up, front +Z
    page_text = _PAGE.format(size) + three_js() + _LOOK + "</script>"
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    with browser() as opened:
        page = opened.new_page()
        page.set_content(page_text, timeout=120_000)
        found = page.evaluate("a => look(...a)", [data, size, told])
        page.close()
    return _before_grey([Image.open(io.BytesIO(base64.b64decode(text))) for text in found])


def blender() -> list[str] | None:
    """How Blender's scripts are run here: the program, or a Python with its module; else None."""
    if program := shutil.which("blender"):
        return [program, "-b", "--factory-startup", "-P"]
    return [sys.executable] if importlib.util.find_spec("bpy") is not None else None


def by_blender(command: Sequence[str], path: Path, cameras: Cameras, size: int) -> Tensor:
    """Views `[B, size, size, 3]` of an OBJ or a GLB by Blender's Cycles, on one thread.

    Raises ModuleNotFoundError where Blender lacks what its importer needs.
    """
    x, y, z = cameras.position.T
    told = torch.stack([y, -x, z, cameras.fovy], dim=1).tolist()  # Z up, front -Y
    views = [",".join(f"{value:.9g}" for value in row) for row in told]
    out = path.with_name(f"{path.suffix[1:]}-by-blender-")
    ended = subprocess.run(
        [*command, str(SCRIPT), "--", str(path), str(size), str(out), *views],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    said = ended.stdout + ended.stderr
    if "No module named 'numpy'" in said:
        raise ModuleNotFoundError("this Blender has no numpy, which its glTF importer needs")
    if "BLENDER " not in said:
        raise RuntimeError(said[-4000:])
    return _before_grey([Image.open(f"{out}{index}.png") for index in range(len(views))])


def _before_grey(pictures: Sequence[Image.Image]) -> Tensor:
    views = []
    for picture in pictures:
        rgba = torch.from_numpy(np.array(picture.convert("RGBA"))).float() / 255.0
        views.append(rgba[..., :3] * rgba[..., 3:] + BEHIND * (1.0 - rgba[..., 3:]))
    return torch.stack(views)

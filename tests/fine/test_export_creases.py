"""Hard edges: where normals differ on two sides, and what else stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch.nn import functional as F

from maquette.common.scene.images import png_bytes
from maquette.common.scene.mesh import Mesh, face_normals
from maquette.fine.export.creases import corner_fans, creased
from maquette.fine.export.levels import levels_of_detail
from maquette.fine.export.order import in_cache_order
from maquette.fine.export.readback import read_obj
from maquette.fine.export.unwrap import Unwrapped, unwrap
from maquette.fine.export.write import write_glb, write_obj

SIZE = 64


def unwrapped(shape: trimesh.Trimesh) -> Unwrapped:
    mesh = Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces).long())
    return unwrap(mesh, 0.0, SIZE)


def test_a_box_has_a_normal_for_each_side() -> None:
    smooth = unwrapped(trimesh.creation.box())
    hard = creased(smooth, 50.0)
    assert hard.fan_normals().shape[0] == 24
    flat = face_normals(hard.vertices, hard.faces)
    torch.testing.assert_close(hard.normals()[hard.faces], flat[:, None].expand(-1, 3, 3))
    assert smooth.fan_normals().shape[0] == 8
    # The surface, the texture and its charts are the same.
    assert torch.equal(hard.welded().faces, smooth.welded().faces)
    assert torch.equal(hard.welded().vertices, smooth.welded().vertices)
    assert torch.equal(hard.uv[hard.faces], smooth.uv[smooth.faces])
    assert torch.equal(hard.charts(), smooth.charts())
    ordered = in_cache_order(hard)
    flat = face_normals(ordered.vertices, ordered.faces)
    torch.testing.assert_close(ordered.normals()[ordered.faces], flat[:, None].expand(-1, 3, 3))
    assert creased(smooth, 95.0) is smooth


def test_a_cylinder_is_hard_at_its_rims_alone() -> None:
    shape = trimesh.creation.cylinder(radius=0.5, height=1.0, sections=32)
    hard = creased(unwrapped(shape), 50.0)
    count = len(shape.vertices)
    assert hard.fan_normals().shape[0] == count + 64  # each of 64 vertices of the rims twice
    radial = hard.normals()[hard.vertices[:, :2].norm(dim=1) > 0.4]
    along = radial[:, 2].abs()
    assert bool(((along < 1e-5) | (along > 1 - 1e-5)).all())
    assert creased(unwrapped(trimesh.creation.icosphere(subdivisions=2)), 50.0).fan is None


def test_fans_in_closed_form() -> None:
    """Two faces that meet at a right angle, and one without an area between them."""
    faces = np.array([[0, 1, 2], [1, 0, 3]])
    normals = np.array([[0.0, 0, 1], [0, 1, 0]])
    assert corner_fans(faces).max() + 1 == 4
    assert corner_fans(faces, normals, 89.0).max() + 1 == 6
    assert corner_fans(faces, normals, 91.0).max() + 1 == 4
    assert corner_fans(faces, normals * [[1.0], [0.0]], 10.0).max() + 1 == 4


@pytest.mark.parametrize("kind", ["obj", "glb"])
def test_files_hold_them(kind: str, tmp_path: Path) -> None:
    hard = creased(unwrapped(trimesh.creation.box().subdivide()), 50.0)
    image = png_bytes(torch.zeros(SIZE, SIZE, 3))
    if kind == "obj":
        path = write_obj(tmp_path, "box", hard, image).obj
        lines = path.read_text().splitlines()
        assert sum(line.startswith("v ") for line in lines) == 26  # one welded surface
    else:
        path = write_glb(tmp_path, "box", hard, image)
    read = read_obj(path)
    flat = face_normals(read.vertices, read.faces)
    cosine = (F.normalize(read.normals, dim=1)[read.faces] * flat[:, None]).sum(-1)
    assert float(cosine.min()) > 0.999


def test_levels_can_have_them_too() -> None:
    hard = creased(unwrapped(trimesh.creation.box().subdivide().subdivide()), 50.0)
    (level,) = levels_of_detail(hard, 2, [])
    again = creased(level, 50.0)
    assert again.fan_normals().shape[0] > level.fan_normals().shape[0]

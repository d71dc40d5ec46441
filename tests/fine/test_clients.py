"""The files in programs that nobody here wrote; each test says when its program isn't there."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch.nn import functional as F

from maquette.common.config.export import ExportConfig
from maquette.common.scene.mesh import Mesh
from maquette.fine.export.export import ExportReport, export
from maquette.fine.material import Finish
from maquette.fine.meshes.read import read_mesh
from maquette.fine.meshes.start import start_of

pytestmark = pytest.mark.slow
FURNITURE = Path("/usr/share/sweethome3d/furniture")


METAL = Finish(
    lambda p: torch.stack([0.5 + 0.5 * p[:, 2].clamp(-1, 1), (p[:, 0] > 0).float()], dim=-1),
    lambda p, n: F.normalize(n + n.new_tensor([0.0, 0.0, 0.1]), dim=-1),
)
"""What a `pbr` material brings along: half a metal, with normals of its own."""


def exported(
    folder: Path, shape: trimesh.Trimesh, finish: Finish | None = None, **options
) -> ExportReport:
    mesh = Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces).long())
    config = ExportConfig(faces=3000, texture_size=256, **options)
    return export(
        mesh, lambda p: 0.5 + 0.5 * p.clamp(-1, 1), folder, "thing", config=config, finish=finish
    )


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def told_by_slicer(slicer: str, path: Path) -> dict[str, str]:
    ended = subprocess.run(
        [slicer, "--info", str(path)], capture_output=True, text=True, timeout=300, check=True
    )
    return dict(re.findall(r"^(\w+) = (.+)$", ended.stdout, flags=re.M))


@pytest.mark.parametrize("kind", ["stl", "3mf"])
def test_a_slicer_finds_nothing_to_repair(kind: str, tmp_path: Path) -> None:
    slicer = program("prusa-slicer")
    inner = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    both = trimesh.util.concatenate([trimesh.creation.icosphere(subdivisions=4), inner])
    exported(tmp_path, both, formats=kind, height="80mm")
    told = told_by_slicer(slicer, tmp_path / f"thing.{kind}")
    assert told["manifold"] == "yes"
    assert float(told["size_z"]) == pytest.approx(80.0, abs=0.01)
    assert float(told["min_z"]) == pytest.approx(0.0, abs=0.01)
    assert int(told["number_of_parts"]) == 1  # the inner ball is no second wall
    assert float(told["volume"]) == pytest.approx(4 / 3 * np.pi * 40.0**3, rel=0.02)
    assert not any("error" in key or "repair" in key or "open" in key for key in told), told


@pytest.mark.parametrize("finish", [None, METAL], ids=["albedo", "pbr"])
def test_usd_s_own_checker_finds_nothing(finish: Finish | None, tmp_path: Path) -> None:
    """What `usdchecker` runs: the validators of USD from 24.11 on, before that its checker."""
    pytest.importorskip("pxr", reason="usd-core is not installed")
    from pxr import Usd, UsdUtils

    ball = trimesh.creation.icosphere(subdivisions=3)
    exported(tmp_path, ball, finish, formats="usdz", height="12cm")
    path = str(tmp_path / "thing.usdz")
    try:
        from pxr import UsdValidation
    except ImportError:
        checker = UsdUtils.ComplianceChecker(arkit=True)
        checker.CheckCompliance(path)
        assert checker.GetErrors() + checker.GetFailedChecks() + checker.GetWarnings() == []
        return
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    found = UsdValidation.ValidationContext(validators).Validate(Usd.Stage.Open(path))
    assert [error.GetMessage() for error in found] == []


@pytest.mark.parametrize("finish", [None, METAL], ids=["albedo", "pbr"])
def test_the_gltf_validator_finds_nothing(finish: Finish | None, tmp_path: Path) -> None:
    node = program("node")
    exported(tmp_path, trimesh.creation.icosphere(subdivisions=3), finish, formats="glb", lods=2)
    code = (
        "const v = require('gltf-validator'), fs = require('fs');"
        "v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))"
        ".then(r => console.log(r.issues.numErrors, r.issues.numWarnings))"
    )
    for name in ("thing.glb", "thing-lod1.glb"):
        ended = subprocess.run(
            [node, "-e", code, str(tmp_path / name)], capture_output=True, text=True, check=False
        )
        if "Cannot find module" in ended.stderr:
            pytest.skip("gltf-validator is not installed (npm install gltf-validator; NODE_PATH)")
        assert ended.stdout.split() == ["0", "0"], ended.stdout + ended.stderr


BLENDER = """
import bpy, sys, json
try:
    import numpy
    if not hasattr(numpy, "bool"):  # Debian's Blender 3.4 is older than the numpy beside it
        numpy.bool = bool
except ImportError:
    pass
bpy.ops.wm.read_factory_settings(use_empty=True)
path = sys.argv[sys.argv.index("--") + 1]
kind = path.rsplit(".", 1)[1]
imports = {"obj": lambda: bpy.ops.wm.obj_import(filepath=path),
 "glb": lambda: bpy.ops.import_scene.gltf(filepath=path),
 "ply": lambda: bpy.ops.import_mesh.ply(filepath=path),
 "usdz": lambda: bpy.ops.wm.usd_import(filepath=path)}
imports[kind]()
(thing,) = [o for o in bpy.context.scene.objects if o.type == "MESH"]
points = [thing.matrix_world @ v.co for v in thing.data.vertices]
low = [min(p[i] for p in points) for i in range(3)]
high = [max(p[i] for p in points) for i in range(3)]
images = [i for i in bpy.data.images if i.size[0] > 1]
print("FOUND " + json.dumps({"low": low, "high": high, "faces": len(thing.data.polygons),
 "textures": [list(i.size) for i in images], "layers": len(thing.data.uv_layers)}))
"""


@pytest.mark.parametrize("kind", ["obj", "glb", "ply"])
def test_blender_sees_it_upright_with_its_texture(kind: str, tmp_path: Path) -> None:
    import json

    blender = program("blender")
    shape = trimesh.creation.icosphere(subdivisions=3)
    shape.vertices *= [0.9, 0.5, 0.3]  # longest towards the front
    shape.vertices[shape.vertices[:, 0] > 0.5, 0] += 0.3  # a nose
    exported(tmp_path, shape, formats=kind, target="blender")
    (tmp_path / "look.py").write_text(BLENDER)
    path = tmp_path / f"thing.{kind}"
    ended = subprocess.run(
        [blender, "-b", "--factory-startup", "-P", tmp_path / "look.py", "--", path],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    lines = [x for x in ended.stdout.splitlines() if x.startswith("FOUND ")]
    if "No module named 'numpy'" in ended.stdout + ended.stderr:
        pytest.skip("this Blender has no numpy, which its glTF importer needs")
    assert lines, ended.stdout + ended.stderr
    found = json.loads(lines[0].removeprefix("FOUND "))
    # Blender's front view looks at -Y; up is Z.
    np.testing.assert_allclose(found["low"], [-0.5, -1.2, -0.3], atol=0.02)
    np.testing.assert_allclose(found["high"], [0.5, 0.9, 0.3], atol=0.02)
    assert 500 < found["faces"] <= 3000
    if kind != "ply":
        assert found["textures"] == [[256, 256]]
        assert found["layers"] == 1


def test_models_that_nobody_here_made_can_be_begun_with(tmp_path: Path) -> None:
    """Twenty pieces of furniture of a Debian package: open, in many parts, with materials."""
    archives = sorted(FURNITURE.glob("*.sh3f"))
    if not archives:
        pytest.skip("the package sweethome3d-furniture is not installed")
    models: list[Path] = []
    for archive in archives:
        with zipfile.ZipFile(archive) as packed:
            names = [n for n in packed.namelist() if n.lower().endswith(".obj")]
            for name in names[:: max(len(names) // 8, 1)][:8]:
                if packed.getinfo(name).file_size > 600_000:
                    continue
                folder = name.rpartition("/")[0]
                place = tmp_path / archive.stem
                for inner in packed.namelist():
                    if inner.startswith(folder) and not inner.endswith("/"):
                        packed.extract(inner, place)
                models.append(place / name)
    assert len(models) >= 20
    for path in models[:24]:
        start = start_of(read_mesh(path))
        assert float(start.mesh.vertices.norm(dim=1).max()) == pytest.approx(0.9, abs=1e-4), path
        assert start.source.colored
        assert start.outward.faces.shape[0] > 0

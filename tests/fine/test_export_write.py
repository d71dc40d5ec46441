"""The files: axes, names, materials, and what another program's reader makes of them."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from maquette.common.scene.images import png_bytes, psnr
from maquette.common.scene.mesh import Mesh
from maquette.fine.export.readback import mean_difference, read_obj, sample_texture, turntable
from maquette.fine.export.seams import _next_level
from maquette.fine.export.unwrap import Unwrapped, unwrap
from maquette.fine.export.write import to_file_axes, to_world_axes, write_glb, write_obj

SIZE = 64


@pytest.fixture
def model() -> tuple[Unwrapped, np.ndarray]:
    """A box with a nose: long towards the front (+X), higher than wide, and a random texture."""
    box = trimesh.creation.box((0.8, 0.4, 0.6)).subdivide()
    vertices = torch.tensor(box.vertices).float()
    vertices[vertices[:, 0] > 0.3, 0] += 0.3
    texture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return unwrap(Mesh(vertices, torch.tensor(box.faces).long()), 0.0, SIZE), texture


def load(path: Path) -> trimesh.Trimesh:
    mesh = trimesh.load(path, process=False)  # no force="mesh", which drops the file's normals
    if isinstance(mesh, trimesh.Scene):
        (mesh,) = mesh.geometry.values()
    assert isinstance(mesh, trimesh.Trimesh)
    return mesh


def corners(values: np.ndarray | torch.Tensor, faces: np.ndarray | torch.Tensor) -> np.ndarray:
    return np.asarray(values)[np.asarray(faces)]


def test_axes_turn_without_mirroring() -> None:
    front, up, left = torch.eye(3)[[0, 2, 1]]
    assert to_file_axes(front).tolist() == [0, 0, 1]
    assert to_file_axes(up).tolist() == [0, 1, 0]
    assert to_file_axes(left).tolist() == [1, 0, 0]
    assert float(torch.linalg.det(to_file_axes(torch.eye(3)))) == 1.0
    points = torch.randn(5, 3)
    assert torch.equal(to_world_axes(to_file_axes(points)), points)


@pytest.mark.parametrize("kind", ["obj", "glb"])
def test_another_reader_sees_the_model(
    kind: str, model: tuple[Unwrapped, np.ndarray], tmp_path: Path
) -> None:
    unwrapped, texture = model
    png = png_bytes(torch.from_numpy(texture))
    if kind == "obj":
        mesh = load(write_obj(tmp_path, "a nosy box", unwrapped, png).obj)
        image = mesh.visual.material.image
    else:
        mesh = load(write_glb(tmp_path, "a nosy box", unwrapped, png))
        image = mesh.visual.material.baseColorTexture
    assert np.array_equal(np.asarray(image.convert("RGB")), texture)
    np.testing.assert_allclose(
        corners(mesh.vertices, mesh.faces),
        corners(to_file_axes(unwrapped.vertices), unwrapped.faces),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        corners(mesh.visual.uv, mesh.faces), corners(unwrapped.uv, unwrapped.faces), atol=1e-6
    )
    np.testing.assert_allclose(
        corners(mesh.vertex_normals, mesh.faces),
        corners(to_file_axes(unwrapped.normals()), unwrapped.faces),
        atol=2e-4,
    )
    low, high = mesh.bounds
    assert high[2] == pytest.approx(0.7)  # the nose is in front, +Z
    assert low[2] == pytest.approx(-0.4)
    assert high[1] == pytest.approx(0.3)  # up is +Y
    assert mesh.volume > 0.0


def test_the_obj_keeps_one_closed_surface(
    model: tuple[Unwrapped, np.ndarray], tmp_path: Path
) -> None:
    unwrapped, texture = model
    text = write_obj(
        tmp_path, "box", unwrapped, png_bytes(torch.from_numpy(texture))
    ).obj.read_text("ascii")
    lines = text.splitlines()
    assert lines[0] == "mtllib box.mtl"
    assert sum(line.startswith("v ") for line in lines) == 26  # not one a chart corner
    assert sum(line.startswith("vn ") for line in lines) == 26
    assert sum(line.startswith("vt ") for line in lines) == unwrapped.uv.shape[0]
    assert sum(line.startswith("f ") for line in lines) == 48
    assert "usemtl box" in lines
    assert "-0.000000" not in text


def test_the_material_is_plain(model: tuple[Unwrapped, np.ndarray], tmp_path: Path) -> None:
    unwrapped, texture = model
    files = write_obj(tmp_path, "a red box", unwrapped, png_bytes(torch.from_numpy(texture)))
    assert files.mtl.read_text("ascii").splitlines() == [
        "newmtl a-red-box",
        "Ka 0 0 0",
        "Kd 1 1 1",
        "Ks 0 0 0",
        "Ns 0",
        "d 1",
        "illum 2",
        "map_Kd a-red-box.png",
    ]
    assert np.array_equal(np.asarray(Image.open(files.texture)), texture)


def test_the_glb_says_that_it_is_no_metal(
    model: tuple[Unwrapped, np.ndarray], tmp_path: Path
) -> None:
    unwrapped, texture = model
    data = write_glb(tmp_path, "box", unwrapped, png_bytes(torch.from_numpy(texture))).read_bytes()
    magic, version, length, json_length = struct.unpack("<4sIII", data[:16])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    document = json.loads(data[20 : 20 + json_length])
    material = document["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0.0
    assert material["roughnessFactor"] == 1.0
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    start = 20 + json_length + 8 + view["byteOffset"]
    image = Image.open(io.BytesIO(data[start : start + view["byteLength"]]))
    assert np.array_equal(np.asarray(image), texture)
    for entry in document["bufferViews"]:
        assert entry["byteOffset"] % 4 == 0


@pytest.mark.parametrize(
    "name", ["a b/c\\d", "übergroßer Löwe", "", "../../up", "con", "x" * 400, "茶碗", "a:b*?\n"]
)
def test_any_name_is_made_safe(
    name: str, model: tuple[Unwrapped, np.ndarray], tmp_path: Path
) -> None:
    unwrapped, texture = model
    png = png_bytes(torch.from_numpy(texture))
    files = write_obj(tmp_path, name, unwrapped, png)
    glb = write_glb(tmp_path, name, unwrapped, png)
    written = {files.obj, files.mtl, files.texture, glb}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == written
    for path in written:
        assert path.stem == files.obj.stem
        assert path.name.isascii()
        assert set(path.stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert 1 <= len(path.stem) <= 64
    assert read_obj(files.obj).texture.shape == (SIZE, SIZE, 3)


def test_reading_back_gives_world_axes(model: tuple[Unwrapped, np.ndarray], tmp_path: Path) -> None:
    unwrapped, texture = model
    read = read_obj(write_obj(tmp_path, "box", unwrapped, png_bytes(torch.from_numpy(texture))).obj)
    assert read.vertices.max(0).values.tolist() == pytest.approx([0.7, 0.2, 0.3])
    assert np.array_equal(read.texture.numpy(), texture)


def test_an_obj_without_texture_is_refused(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "bare.obj")
    with pytest.raises(ValueError, match="expected a texture"):
        read_obj(tmp_path / "bare.obj")


def test_bilinear_lookup_in_closed_form() -> None:
    texture = torch.tensor([[[0], [100]], [[200], [40]]], dtype=torch.uint8)  # 2 x 2, top first
    uv = torch.tensor([[0.25, 0.75], [0.75, 0.75], [0.25, 0.25], [0.5, 0.75], [0.5, 0.5]])
    expected = torch.tensor([0.0, 100.0, 200.0, 50.0, 85.0]) / 255
    torch.testing.assert_close(sample_texture(texture, uv)[:, 0], expected)
    outer = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(
        sample_texture(texture, outer)[:, 0], torch.tensor([0.0, 40.0]) / 255
    )


def test_pictures_are_compared_by_rows() -> None:
    one, two = np.random.default_rng(0).integers(0, 256, (2, 300, 7, 3)).astype(np.uint8)
    assert mean_difference(one, two) == pytest.approx(np.abs(one.astype(float) - two).mean())
    assert mean_difference(one, one) == 0.0


def test_mip_levels_are_means_of_four() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (1031, 1031, 3)).astype(np.uint8)
    found = _next_level(texture)  # in several bands, the odd row and column left out
    whole = texture[:1030, :1030].reshape(515, 2, 515, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, whole, atol=1e-3)


def test_psnr_in_closed_form() -> None:
    image = torch.zeros(4, 4, 3)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    other = image + 0.1
    other[2:] = 1.0  # outside the mask
    assert psnr(image, other, mask) == pytest.approx(20.0, abs=1e-4)
    assert psnr(image, image, mask) == 100.0


def test_the_turntable_begins_in_front(model: tuple[Unwrapped, np.ndarray], tmp_path: Path) -> None:
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.9)
    mesh = Mesh(torch.tensor(sphere.vertices).float(), torch.tensor(sphere.faces).long())
    unwrapped = unwrap(mesh, 0.0, 128)
    from maquette.fine.export.bake import bake

    red, blue = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    baked = bake(unwrapped, 128, lambda p: torch.where(p[:, :1] > 0, red, blue))
    read = read_obj(
        write_obj(tmp_path, "ball", unwrapped, png_bytes(torch.from_numpy(baked.texture))).obj
    )
    sheet = turntable(read, views=4, resolution=32)
    assert sheet.shape == (64, 64, 3)
    assert sheet[16, 16].tolist() == pytest.approx([255, 0, 0], abs=12)  # front, lit head on
    assert sheet[48, 16].tolist() == pytest.approx([0, 0, 255], abs=12)  # half a turn on
    assert sheet[0, 0].tolist() == [255, 255, 255]
    # A quarter turn counter-clockwise: the camera is at +Y and the front points to its left.
    assert sheet[16, 32 + 10, 0] > 100
    assert sheet[16, 32 + 22, 2] > 100
    with pytest.raises(ValueError, match="even"):
        turntable(read, views=3)

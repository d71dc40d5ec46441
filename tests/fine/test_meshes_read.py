"""Meshes of the user's: what is read of each format, and the line for whatever is wrong."""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from maquette import pipeline
from maquette.common.errors import UserError
from maquette.fine.meshes.read import read_mesh

KINDS = ("obj", "glb", "ply", "stl", "off")
CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIAL = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
BOX_3MF = f"""<?xml version="1.0"?>
<model unit="inch" xmlns="{CORE}" xmlns:m="{MATERIAL}"><resources>
<m:colorgroup id="1"><m:color color="#FF0000"/><m:color color="#0000FFFF"/></m:colorgroup>
<object id="2"><mesh><vertices><vertex x="0" y="0" z="0"/><vertex x="1" y="0" z="0"/>
<vertex x="0" y="1" z="0"/><vertex x="0" y="0" z="1"/></vertices><triangles>
<triangle v1="0" v2="2" v3="1" pid="1" p1="0"/>
<triangle v1="0" v2="1" v3="3" pid="1" p1="0" p2="0" p3="1"/>
</triangles></mesh></object>
<object id="3"><components>
<component objectid="2" transform="1 0 0 0 1 0 0 0 1 5 0 0"/>
</components></object></resources><build>
<item objectid="3"/><item objectid="2" transform="2 0 0 0 2 0 0 0 2 0 0 0"/>
</build></model>"""


def ball() -> trimesh.Trimesh:
    shape = trimesh.creation.icosphere(subdivisions=2)
    shape.vertices *= [1.0, 2.0, 3.0]
    return shape


def packed(path: Path, text: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("3D/3dmodel.model", text)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_geometry_keeps_its_order(kind: str, tmp_path: Path) -> None:
    shape = ball()
    shape.export(tmp_path / f"ball.{kind}")
    found = read_mesh(tmp_path / f"ball.{kind}")
    np.testing.assert_allclose(found.vertices[found.faces], shape.vertices[shape.faces], atol=1e-6)
    if kind != "stl":
        np.testing.assert_array_equal(found.faces, shape.faces)
    assert found.up == ("z" if kind == "stl" else "y")
    assert found.metre == (1.0 if kind == "glb" else None)
    assert found.lost == []


def test_a_3mf_is_built_with_its_unit_and_colours(tmp_path: Path) -> None:
    found = read_mesh(packed(tmp_path / "box.3mf", BOX_3MF))
    assert found.metre == 0.0254
    assert found.vertices.shape == (8, 3)
    assert found.vertices[1].tolist() == [6.0, 0.0, 0.0]  # the component, moved
    assert found.vertices[5].tolist() == [2.0, 0.0, 0.0]  # the item, twice as large
    assert found.faces[2:].min() == 4
    assert found.colors is not None
    assert found.colors[3].tolist() == [0.0, 0.0, 1.0]


def test_an_obj_with_polygons_materials_and_a_texture(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)).save(
        tmp_path / "two colours.png"
    )
    (tmp_path / "m.mtl").write_text(
        "newmtl plain\nKd 0.25 0.5 1\nnewmtl painted\nKd 0 0 0\nmap_Kd -s 1 1 1 two colours.png\n"
    )
    (tmp_path / "m.obj").write_text(
        "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0.25 0.5\nvt 0.75 0.5\n"
        "usemtl plain\nf 1/1 2/1 3/1 4/1\nusemtl painted\nf -4/-2/1 -3/-1/1 -2/-1/1\n"
    )
    found = read_mesh(tmp_path / "m.obj")
    assert found.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    colors = found.colors_at(np.array([0, 2, 2]), np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(colors, [[0.25, 0.5, 1], [1, 0, 0], [0, 1, 0]], atol=1e-6)


def test_colours_of_vertices_are_read(tmp_path: Path) -> None:
    shape = ball()
    shape.visual.vertex_colors = np.tile([255, 51, 0, 255], (len(shape.vertices), 1))
    shape.export(tmp_path / "ball.ply")
    found = read_mesh(tmp_path / "ball.ply")
    np.testing.assert_allclose(
        found.colors_at(np.array([3]), np.full((1, 3), 1 / 3)), [[1.0, 0.2, 0.0]], atol=1e-6
    )


def glb(path: Path, **more: object) -> Path:
    """A ball as GLB with entries added to its JSON."""
    data = ball().export(file_type="glb")
    length = struct.unpack("<I", data[12:16])[0]
    text = json.dumps(json.loads(data[20 : 20 + length]) | more).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
    path.write_bytes(head + text + rest)
    return path


def pictured(path: Path, uri: str) -> Path:
    """A ball as GLB whose colours are in the picture at `uri`."""
    return glb(
        path,
        images=[{"uri": uri}],
        textures=[{"source": 0}],
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
    )


def enormous() -> bytes:
    """The head of a PNG of 60,000 pixels a side."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sIIBBBBB", 13, b"IHDR", 60000, 60000, 8, 2, 0, 0, 0
    )
    data = struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))
    return head + struct.pack(">I", zlib.crc32(head[12:])) + data


def test_what_a_glb_loses_is_told(tmp_path: Path) -> None:
    walking = glb(tmp_path / "walk.glb", animations=[{"channels": [], "samplers": []}])
    assert read_mesh(walking).lost == ["its animations"]
    apart = pictured(tmp_path / "apart.glb", "brick.png")
    assert read_mesh(apart).lost == ["its texture brick.png, which lies in another file"]


def test_pictures_in_a_glb_are_looked_at(tmp_path: Path) -> None:
    for data, words in ((b"no picture", "no picture"), (enormous(), "60000 x 60000")):
        uri = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
        wrong(pictured(tmp_path / "x.glb", uri), "the texture in", words)
    wrong(glb(tmp_path / "x.glb", materials=[3]), "x.glb is damaged")


def wrong(path: Path, *words: str) -> str:
    with pytest.raises(UserError) as told:
        read_mesh(path)
    line = str(told.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    return line


@pytest.mark.parametrize("kind", [*KINDS, "3mf"])
def test_empty_and_truncated_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    path.touch()
    wrong(path, "is empty")
    if kind == "3mf":
        packed(path, BOX_3MF)
    else:
        ball().export(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    wrong(path, "x.")
    path.write_bytes(os.urandom(4000))
    wrong(path, "x.")


def test_places_that_are_no_mesh_file(tmp_path: Path) -> None:
    wrong(tmp_path / "nothing.obj", "no mesh file")
    (tmp_path / "folder.obj").mkdir()
    wrong(tmp_path / "folder.obj", "is a folder")
    os.mkfifo(tmp_path / "pipe.obj")
    wrong(tmp_path / "pipe.obj", "no regular file")
    (tmp_path / "x.fbx").write_text("x")
    wrong(tmp_path / "x.fbx", "OBJ, GLB")


OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# nothing\n", ["no faces"]),
        (OBJ, ["no faces"]),
        ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", ["not finite"]),
        ("v inf 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", ["not finite"]),
        (OBJ + "f 1 2 9\n", ["names vertex 8"]),
        (OBJ + "f 1 2 -9\n", ["line 4"]),
        (OBJ + "f 1 2\n", ["no faces"]),
        ("v 0 0\nf 1 1 1\n", ["line 1"]),
        ("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", ["no extent"]),
        ("v 0 0 0\nv 1e-9 0 0\nv 0 1e-9 0\nf 1 2 3\n", ["1e-09 units"]),
        ("v 0 0 0\nv 1e9 0 0\nv 0 1e9 0\nf 1 2 3\n", ["1e+09 units"]),
        ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", ["no face with an area"]),
    ],
)
def test_geometry_that_cannot_be_used(text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.obj").write_text(text)
    wrong(tmp_path / "x.obj", *words)


def test_numbers_of_other_formats(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Told in the line alone: NumPy's own warnings would be more lines."""
    data = bytearray(ball().export(file_type="stl"))
    data[96:100] = struct.pack("<f", np.inf)
    (tmp_path / "x.stl").write_bytes(data)
    wrong(tmp_path / "x.stl", "not finite")
    points = "property float x\nproperty float y\nproperty float z\n"
    head = f"ply\nformat ascii 1.0\nelement vertex 3\n{points}"
    (tmp_path / "x.ply").write_text(f"{head}end_header\n0 0 0\n1 0 0\n0 1 0\n")
    wrong(tmp_path / "x.ply", "no faces")
    faces = "element face 1\nproperty list uchar int vertex_indices\n"
    (tmp_path / "x.ply").write_text(f"{head}{faces}end_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -7\n")
    wrong(tmp_path / "x.ply", "x.ply", "names vertex -7")
    assert [str(w.message) for w in recwarn] == []


def test_too_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maquette.fine.meshes.data.MOST_PARTS", 3)
    parts = [ball().apply_translation([10 * i, 0, 0]) for i in range(4)]
    trimesh.util.concatenate(parts).export(tmp_path / "x.obj")
    wrong(tmp_path / "x.obj", "in 4 pieces")


def test_materials_that_lead_astray(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.mtl").write_text("newmtl a\nKd 1 0 0\n")
    face = OBJ + "vt 0 0\nusemtl a\nf 1/1 2/1 3/1\n"
    (folder / "x.obj").write_text("mtllib ../secret.mtl\n" + face)
    wrong(folder / "x.obj", "outside of its folder")
    (folder / "x.obj").write_text("mtllib m.mtl\n" + face)
    (folder / "m.mtl").write_text("newmtl a\nmap_Kd ../../etc/passwd\n")
    wrong(folder / "x.obj", "outside of its folder")
    (folder / "m.mtl").write_text("newmtl a\nmap_Kd lost.png\n")
    wrong(folder / "x.obj", "lost.png", "is missing")
    (folder / "lost.png").write_bytes(b"no picture")
    wrong(folder / "x.obj", "lost.png", "damaged")
    (folder / "lost.png").write_bytes(enormous())
    wrong(folder / "x.obj", "60000 x 60000")
    (folder / "m.mtl").unlink()
    assert read_mesh(folder / "x.obj").lost == ["its materials: there is no file m.mtl beside it"]


def test_archives_that_are_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maquette.fine.meshes.threemf.MOST_BYTES", 2**20)
    wrong(packed(tmp_path / "x.3mf", " " * 2**21), "grows to more than 1 MiB")
    laughs = '<!DOCTYPE a [<!ENTITY b "ha">]><model/>'
    wrong(packed(tmp_path / "y.3mf", laughs), "entities")
    endless = BOX_3MF.replace('<component objectid="2"', '<component objectid="3"')
    wrong(packed(tmp_path / "z.3mf", endless), "damaged")


@pytest.mark.parametrize("command", ["fine", "texture"])
def test_nothing_is_written_for_a_mesh_that_is_wrong(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.obj").write_text(OBJ)
    good = tmp_path / "good.obj"
    good.write_text(OBJ + "f 1 2 3\n")
    for arguments, words in (
        (["--mesh", "x.obj", "a red mushroom"], "no faces"),
        (["--mesh", "good.obj", "a red dragon"], "dragon"),
        (["--mesh", "good.obj", "a red mushroom", "--front", "+y"], "up"),
        (["--mesh", "good.obj", "a red mushroom", "--front", "north"], "'mesh.front'"),
        (["--mesh", "good.obj", "a red mushroom", "--set", "fine.stesp=3"], "stesp"),
    ):
        monkeypatch.setattr(sys, "argv", ["maquette", command, *arguments])
        with pytest.raises(SystemExit) as ended:
            pipeline.main()
        assert ended.value.code == 2
        told = capfd.readouterr().err
        assert told.count("\n") == 1
        assert words in told, told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.obj", "x.obj"]

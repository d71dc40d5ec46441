"""The metallic-roughness material: where it starts, what it learns under skies, what is written."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor
from torch.nn import functional as F

from maquette.common.config.export import ExportConfig
from maquette.common.config.fields import HashGridConfig
from maquette.common.config.material import PbrConfig
from maquette.common.config.reading import build_config
from maquette.common.embedded.exact import ExactPrior
from maquette.common.errors import UserError
from maquette.common.fields.field import HashField
from maquette.common.guidance.conditions import Rows
from maquette.common.light.skies import sample_skies, studio_skies
from maquette.common.priors.base import Condition
from maquette.common.rasterize import interpolate, rasterize
from maquette.common.scene.cameras import orbit
from maquette.common.scene.mesh import Mesh
from maquette.common.scene.shading import headlights, shade
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import photograph
from maquette.fine.export.export import export
from maquette.fine.export.finish import bake_bent, bake_finish, check_finish, write_loose
from maquette.fine.export.normals import unpacked
from maquette.fine.export.pictures import encoded
from maquette.fine.export.placement import Pose
from maquette.fine.export.unwrap import Unwrapped, unwrap
from maquette.fine.export.usdz import write_usdz
from maquette.fine.export.write import write_glb, write_obj
from maquette.fine.isosurface import Isosurface
from maquette.fine.material import Finish, Layers, lit
from maquette.fine.model import render_surface
from maquette.fine.pbr import Pbr, pbr_of
from maquette.fine.texture import texture_of

GRID = HashGridConfig(levels=4, log2_entries=10, base_resolution=4, finest_resolution=32)
SIZE = 64


def color_field() -> HashField:
    torch.manual_seed(1)
    field = HashField(GRID, 16, outputs=3)
    with torch.no_grad():
        field.grid.tables.uniform_(-1, 1)
    return field


def directions(count: int = 300) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(count, 3, generator=generator), dim=-1)


def begun(**options: object) -> Pbr:
    return pbr_of(color_field(), 1, PbrConfig.model_validate(options))


def ball() -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=2, radius=0.8)
    return Mesh(torch.tensor(made.vertices).float(), torch.tensor(made.faces).long())


def test_it_begins_as_the_colours_half_rough_and_hardly_metal() -> None:
    points = directions()
    with torch.no_grad():
        there = begun(roughness=[0.1, 0.9]).layers(points, points)
    torch.testing.assert_close(there.albedo, texture_of(color_field(), 1)(points))
    torch.testing.assert_close(there.roughness, torch.full((300, 1), 0.5))
    assert 0.1 < float(there.metallic.max()) == float(there.metallic.min()) < 0.13
    torch.testing.assert_close(there.normals, points)


def test_what_it_may_become_is_what_was_said() -> None:
    material = begun(roughness=[0.3, 0.6], metallic=0.5, bump=0.5)
    with torch.no_grad():
        material.field.out.weight.normal_(0.0, 40.0)
    points = directions()
    there = material.layers(points, points)
    assert float(there.roughness.min()) == pytest.approx(0.3, abs=1e-3)
    assert float(there.roughness.max()) == pytest.approx(0.6, abs=1e-3)
    assert float(there.metallic.max()) == pytest.approx(0.5, abs=1e-3)
    torch.testing.assert_close(there.normals.norm(dim=-1), torch.ones(300))
    assert 0.2 < float((there.normals * points).sum(-1).min()) < 0.9
    flat = begun(bump=0.0)
    assert flat.finish().bend is None
    assert torch.equal(flat.layers(points, points).normals, points)


def test_a_lamp_shows_the_albedo_as_it_shows_a_plain_one() -> None:
    points, cameras = directions(), orbit(1)
    view, lamp = torch.zeros(300, dtype=torch.long), headlights(orbit(1).position, 0.3)
    plain = texture_of(color_field(), 1)
    found = lit(plain, points, points, cameras, lamp, view)
    assert torch.equal(found, shade(plain(points), points, points, lamp, view))
    bumpy = begun()
    torch.testing.assert_close(lit(bumpy, points, points, cameras, lamp, view), found)


@pytest.mark.parametrize("metal", [0.0, 1.0])
def test_under_skies_it_learns_what_the_truth_is_made_of(metal: float) -> None:
    """Points on a ball seen from everywhere: colour, roughness and metal come back."""
    torch.manual_seed(2)
    points, cameras = directions(400), orbit(4)
    material = begun(bump=0.0)
    optimizer = torch.optim.Adam(material.parameters(), lr=0.02)
    truth = torch.tensor([0.8, 0.35, 0.2]).expand(400, 3)
    rough, metallic = torch.full((400, 1), 0.3), torch.full((400, 1), metal)
    known = _Known(truth, rough, metallic)
    for _ in range(120):
        skies = sample_skies(PbrConfig().sky, 4)
        view = torch.randint(4, (400,))
        shown = (lit(m, points, points, cameras, skies, view) for m in (material, known))
        loss = F.mse_loss(*shown)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = material.layers(points, points)
    assert float((found.albedo - truth).square().mean()) < 10**-2.6  # 26 dB
    assert float((found.metallic - metal).abs().mean()) < 0.12
    assert float((found.roughness - 0.3).abs().mean()) < 0.12


class _Known(Pbr):
    """A material that is the same everywhere."""

    def __init__(self, albedo: Tensor, roughness: Tensor, metallic: Tensor) -> None:
        super().__init__(color_field(), PbrConfig())
        self._found = (albedo, roughness, metallic)

    def layers(self, points: Tensor, normals: Tensor) -> Layers:
        albedo, roughness, metallic = self._found
        return Layers(albedo, normals, roughness, metallic)


def test_views_reach_every_channel_and_tell_their_skies() -> None:
    material, mesh, cameras = begun(), ball(), orbit(2)
    surface = Isosurface(mesh.vertices, mesh.faces, mesh.faces.new_zeros(0, 2))
    skies = sample_skies(PbrConfig().sky, 2)
    views = render_surface(surface, material, cameras, skies, 48, torch.zeros(3))
    assert views.skies is skies
    (views.image * torch.rand(2, 48, 48, 3)).sum().backward()
    grad = material.field.out.weight.grad
    assert grad is not None
    assert bool((grad.abs().amax(dim=1) > 0).all())
    again = render_surface(surface, material, cameras, studio_skies(2), 48, torch.zeros(3))
    assert float((again.image - views.image).abs().max()) > 0.05


def test_the_exact_prior_knows_its_toys_under_the_skies_it_is_told() -> None:
    prior, cameras = ExactPrior("pixel"), orbit(2, distance=3.0)
    skies = sample_skies(PbrConfig().sky, 2)
    prompt = "a blue robot"
    wanted = Condition(prior.encode_text([prompt]).select([0, 0]), cameras)
    told = Rows(wanted, wanted).under(skies).wanted
    x, t = torch.randn(2, 3, 64, 64), torch.tensor([500, 500])
    alpha, sigma = prior.schedule.at(t, 4)
    for condition, light in (
        (told, skies),
        (told.select([1, 0]).select([1, 0]), skies),
        (wanted, None),
    ):
        clean = (x - sigma * prior.predict_noise(x, t, condition)) / alpha
        photos = photograph(build(prompt), cameras, 64, skies=light)
        torch.testing.assert_close(clean, prior.encode_image(photos), atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="skies"):
        Condition.cat([told, wanted])
    assert Condition.cat([told, told]).skies is not None
    lamp = photograph(build(prompt), cameras, 64)
    lit_up = photograph(build(prompt), cameras, 64, skies=skies)
    assert float((lamp - lit_up).abs().max()) > 0.2


def test_toys_are_made_of_what_their_paints_are() -> None:
    toy = build("a blue robot")
    seen = rasterize(toy.mesh.vertices, toy.mesh.faces, orbit(1).mvp(), 64, 64)
    rough, metal = toy.finish(seen.face).unbind(dim=-1)
    assert set(metal.tolist()) == {0.0, 1.0}
    assert 0.05 < float(rough.min()) < float(rough.max()) <= 1.0
    assert interpolate(toy.mesh.vertices, seen).shape[0] == rough.shape[0]
    assert set(build("a blue cat").finishes[0].tolist()) != set(toy.finishes[0].tolist())


@pytest.fixture(scope="module")
def baked() -> tuple[Unwrapped, np.ndarray, np.ndarray]:
    """A ball, rough above and metal in front; its albedo and its finish."""
    unwrapped = unwrap(ball(), 0.0, SIZE)
    finish = Finish(lambda p: torch.stack([0.5 + 0.5 * p[:, 2], (p[:, 0] > 0).float()], dim=-1))
    texture = np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)
    return unwrapped, texture, bake_finish(unwrapped, SIZE, finish)


def test_roughness_is_green_and_metallic_is_blue(baked) -> None:
    unwrapped, _, finish = baked
    texel = (unwrapped.uv * SIZE).floor().clamp(0, SIZE - 1).long()
    there = finish[SIZE - 1 - texel[:, 1], texel[:, 0]] / 255.0
    points = unwrapped.vertices.numpy()
    np.testing.assert_allclose(there[:, 1], 0.5 + 0.5 * points[:, 2], atol=0.08)
    clear = np.abs(points[:, 0]) > 0.15
    np.testing.assert_allclose(there[clear, 2], points[clear, 0] > 0, atol=0.01)
    assert (finish[..., 0] == 255).all()


@pytest.mark.parametrize("kind", ["obj", "glb", "usdz"])
def test_files_say_what_they_are_made_of(kind: str, baked, tmp_path: Path) -> None:
    unwrapped, texture, finish = baked
    albedo, both = encoded(texture, "png"), encoded(finish, "png")
    if kind == "obj":
        maps = write_loose(tmp_path, "ball", finish)
        path = write_obj(tmp_path, "ball", unwrapped, albedo, finish=maps.lines()).obj
        lines = path.with_suffix(".mtl").read_text().splitlines()
        assert {"map_Kd ball.png", "map_Pr ball-roughness.png", "map_Pm ball-metallic.png"} <= set(
            lines
        )
    elif kind == "glb":
        path = write_glb(tmp_path, "ball", unwrapped, albedo, finish_image=both)
        data = path.read_bytes()
        document = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])
        surface = document["materials"][0]["pbrMetallicRoughness"]
        assert (surface["metallicFactor"], surface["roughnessFactor"]) == (1.0, 1.0)
        assert surface["metallicRoughnessTexture"] == {"index": 1}
        assert [image["name"] for image in document["images"]] == ["ball", "ball-finish"]
    else:
        pytest.importorskip("pxr", reason="usd-core is not installed")
        path = write_usdz(tmp_path, "ball", unwrapped, albedo, Pose(), both)
    check_finish(path, finish)
    with pytest.raises(OSError, match="another roughness or metallic"):
        check_finish(path, np.ascontiguousarray(finish[..., [0, 2, 1]]))


def test_a_file_without_a_finish_is_not_taken_for_one(baked, tmp_path: Path) -> None:
    unwrapped, texture, finish = baked
    for path in (
        write_glb(tmp_path, "ball", unwrapped, encoded(texture, "png")),
        write_obj(tmp_path, "ball", unwrapped, encoded(texture, "png")).obj,
    ):
        with pytest.raises(OSError, match="does not read back"):
            check_finish(path, finish)


def test_normals_of_the_material_are_in_the_normal_map(baked) -> None:
    """Normals pushed up everywhere: what the map says in the world is up of what was there."""
    unwrapped = baked[0]
    push = torch.tensor([0.0, 0.0, 0.3])
    bend = lambda p, n: F.normalize(n + push.to(n), dim=-1)  # noqa: E731
    flat = bake_bent(unwrapped, SIZE, None, Finish(lambda p: p[:, :2]))
    assert flat is None
    found = bake_bent(unwrapped, SIZE, None, Finish(lambda p: p[:, :2], bend))
    assert found is not None
    local = unpacked(found / 255.0)
    expected = 1.0 / np.sqrt(1.0 + 0.3**2)  # where the surface looks across
    assert local[..., 2].min() > 0.9
    assert local[..., 2].min() == pytest.approx(expected, abs=0.02)


def test_an_export_holds_all_of_it(tmp_path: Path) -> None:
    finish = Finish(
        lambda p: torch.stack([0.5 + 0.5 * p[:, 2], (p[:, 0] > 0).float()], dim=-1),
        lambda p, n: F.normalize(n + n.new_tensor([0.0, 0.0, 0.2]), dim=-1),
    )
    config = ExportConfig.model_validate(
        {"formats": "obj,glb,3mf", "texture_size": 64, "unwrap_limit": 1e-3}
    )
    report = export(ball(), lambda p: 0.5 + 0.5 * p, tmp_path, "ball", config=config, finish=finish)
    assert {"ball-roughness.png", "ball-metallic.png", "ball-normal.png"} < report.digests.keys()
    assert report.glb is not None
    data = report.glb.read_bytes()
    document = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])
    names = ["ball", "ball-normal", "ball-finish"]
    assert [image["name"] for image in document["images"]] == names
    (material,) = document["materials"]
    assert material["normalTexture"] == {"index": 1}
    assert material["pbrMetallicRoughness"]["metallicRoughnessTexture"] == {"index": 2}
    assert "TANGENT" in document["meshes"][0]["primitives"][0]["attributes"]


def test_settings_are_checked() -> None:
    assert build_config("a red mushroom", overrides=["fine.material=pbr"]).fine.material == "pbr"
    for text, words in (
        ("fine.material=gold", "fine.material"),
        ("fine.pbr.bump=0.7", "bump"),
        ("fine.pbr.roughness=[0.5, 0.2]", "roughness"),
        ("fine.pbr.sky.exposure=[0, 1]", "exposure"),
        ("fine.pbr.sky.tilt=-3", "tilt"),
    ):
        with pytest.raises(UserError, match=words):
            build_config("a red mushroom", overrides=[text])

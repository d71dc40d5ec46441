"""An image in, its mesh out: the command, what a run keeps of the picture, and what is refused."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maquette import pipeline
from maquette.coarse.nerf import Nerf
from maquette.common.begin import Choices, begin, derive
from maquette.common.embedded.identify import identify
from maquette.common.errors import UserError
from maquette.common.guidance.prepare import portrait, prepare_judges
from maquette.common.runs.folder import Run, open_run
from maquette.common.runs.picture import read_kept
from maquette.common.runs.stage import COARSE
from maquette.common.scene.cameras import Cameras
from maquette.common.toybox.grammar import Caption
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import cutouts
from maquette.fine.deliver import finish_export
from maquette.fine.train import load_finished, run_fine

AZIMUTH, ELEVATION = math.radians(50.0), math.radians(10.0)
Mistake = Callable[..., str]


def taken(toy: str, azimuth: float = AZIMUTH, elevation: float = ELEVATION, side: int = 160):
    values = (azimuth, elevation, 3.0, math.radians(40.0))
    camera = Cameras(*(torch.tensor([v]) for v in values))
    return cutouts(build(toy), camera, side)[0]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blue duck, from the front's left, ten degrees up; its name says nothing of that."""
    path = tmp_path_factory.mktemp("pictures") / "mein Bild 1.jpg"
    rgba = (taken("a blue duck") * 255 + 0.5).to(torch.uint8).numpy()
    with path.open("wb") as file:
        Image.fromarray(rgba).save(file, "PNG")
    return path


@pytest.fixture(scope="module")
def pictured(photo: Path, tmp_path_factory: pytest.TempPathFactory, small_settings) -> Run:
    """A finished small run of the picture alone, with the exact prior."""
    from maquette.coarse.train import run_coarse

    out = tmp_path_factory.mktemp("runs") / "run"
    choices = Choices(
        settings=[*small_settings[1::2], "image.size=128"],
        images=[str(photo)],
        elevation="10",
        prior="exact",
        out=str(out),
        device="cpu",
    )
    run = begin("", choices)
    run_coarse(run)
    run_fine(run)
    finish_export(run)
    return run


@pytest.fixture
def mistake(monkeypatch, capfd, tmp_path: Path) -> Mistake:
    """Runs the command in an empty folder; returns the one line it says about a mistake."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["maquette", *arguments])
        with pytest.raises(SystemExit) as ended:
            pipeline.main()
        told = capfd.readouterr()
        assert ended.value.code == 2, told.err
        lines = told.err.splitlines()
        assert len(lines) == 1, told.err
        assert lines[0].startswith("error: ")
        assert list(tmp_path.iterdir()) == []
        return lines[0]

    monkeypatch.chdir(tmp_path)
    return call


def test_a_picture_becomes_a_mesh_of_its_name(pictured: Run) -> None:
    assert (pictured.export / "mein-bild-1.obj").is_file()
    assert pictured.config.prompt == ""
    assert pictured.config.image is not None
    assert pictured.config.image.fill == 0.0  # the exact prior knows the toys at their own size
    folder = pictured.folder / "image"
    assert {path.name for path in folder.iterdir()} == {"cutout.png", "overview.png", "image.json"}
    assert Image.open(folder / "cutout.png").mode == "RGBA"
    assert Image.open(folder / "overview.png").size == (384, 128)
    told = json.loads((folder / "image.json").read_text("utf-8"))
    assert told["cut out by"] == "its own alpha"


def test_what_is_kept_is_the_object_in_its_frame(pictured: Run) -> None:
    kept, wanted = read_kept(pictured).rgba, taken("a blue duck", side=128)
    assert float((kept[..., 3] - wanted[..., 3]).abs().mean()) < 0.01
    inside = wanted[..., 3] > 0.99
    assert float((kept - wanted)[inside][:, :3].abs().mean()) < 0.03


def test_the_exact_prior_found_the_toy_and_turned_it(pictured: Run) -> None:
    """The picture's camera looks from azimuth 0 of the run's world, so the toy is turned."""
    lines = (pictured.folder / "events.jsonl").read_text("utf-8").splitlines()
    found = [e for e in map(json.loads, lines) if e["event"] == "toy found"]
    assert [e["stage"] for e in found] == ["coarse", "fine"]
    assert {e["caption"] for e in found} == {"a blue duck"}
    assert abs(found[0]["azimuth"] - 50.0) < 1.5
    panel = prepare_judges(pictured, COARSE, torch.device("cpu"))
    assert list(panel.judges) == ["prior", "reference"]
    prior = panel.judges["prior"][0].prior  # pyright: ignore[reportAttributeAccessIssue]
    from maquette.common.toybox.studio import photograph

    for turn in (0.0, 0.7, -2.0):
        values = (turn, ELEVATION, 3.0, math.radians(40.0))
        told = Cameras(*(torch.tensor([v]) for v in values))
        truth = Cameras(told.azimuth + AZIMUTH, told.elevation, told.distance, told.fovy)
        view = prior.true_views("", told)[0][0].permute(1, 2, 0) * 0.5 + 0.5
        assert float((view - photograph(build("a blue duck"), truth, 64)[0]).abs().mean()) < 0.01


def test_the_reference_view_is_looked_at_in_both_stages(pictured: Run) -> None:
    lines = (pictured.folder / "events.jsonl").read_text("utf-8").splitlines()
    for stage in ("coarse", "fine"):
        last = [
            e for e in map(json.loads, lines) if e["event"] == "checkpoint" and e["stage"] == stage
        ][-1]
        assert last["reference psnr"] > 5.0


def test_the_same_command_goes_on_and_another_picture_does_not(
    pictured: Run, photo: Path, tmp_path: Path
) -> None:
    other = tmp_path / photo.name
    other.write_bytes(photo.read_bytes())
    assert pictured.config.image is not None
    base = {**pictured.config.model_dump(mode="json")}
    again = begin_like(base, str(photo), pictured.folder)
    assert again.folder == pictured.folder
    rgba = np.array(Image.open(photo))
    rgba[..., :3] = rgba[..., 2::-1]
    Image.fromarray(rgba).save(other, "PNG")
    with pytest.raises(UserError, match="other settings"):
        begin_like(base, str(other), pictured.folder)


def begin_like(base: dict, path: str, out: Path) -> Run:
    """Begin with a run's settings but another picture."""
    import yaml

    file = out.parent / "again.yaml"
    tree = {k: v for k, v in base.items() if k not in ("prompt", "image")}
    file.write_text(yaml.safe_dump(tree))
    choices = Choices(
        config=str(file),
        images=[path],
        elevation="10",
        settings=["image.size=128"],
        out=str(out),
    )
    return begin("", choices)


def test_refining_takes_the_picture_along(pictured: Run, tmp_path: Path) -> None:
    choices = Choices(settings=["fine.steps=5"], out=str(tmp_path / "new"))
    run = derive(str(pictured.folder), None, choices)
    assert (run.folder / "image" / "cutout.png").read_bytes() == (
        pictured.folder / "image" / "cutout.png"
    ).read_bytes()
    shown = portrait(open_run(str(run.folder)))
    assert math.degrees(float(shown.camera.elevation)) == pytest.approx(10.0)
    assert load_finished(pictured).mesh().faces.shape[0] > 0


def test_a_damaged_picture_of_a_run_is_told(pictured: Run, tmp_path: Path) -> None:
    run = derive(str(pictured.folder), None, Choices(settings=["fine.steps=5"],
                                                     out=str(tmp_path / "new")))  # fmt: skip
    path = run.folder / "image" / "cutout.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="missing or damaged"):
        read_kept(run)


@pytest.mark.parametrize("toy", ["a red mug", "a striped teal and yellow fish", "a white owl"])
def test_any_toy_is_found_in_its_picture(toy: str) -> None:
    values = (0.0, 0.0, 3.0, math.radians(40.0))
    camera = Cameras(*(torch.tensor([v]) for v in values))
    match = identify(taken(toy, 2.1, 0.2, side=128), camera, 0.2)
    assert match.caption.text == toy
    assert abs(math.remainder(match.azimuth - 2.1, 2 * math.pi)) < math.radians(2.0)


def test_the_elevation_is_found_where_it_is_unknown() -> None:
    values = (0.0, 0.0, 3.0, math.radians(40.0))
    camera = Cameras(*(torch.tensor([v]) for v in values))
    rgba = taken("a teal car", -0.6, math.radians(27.0), side=128)
    match = identify(rgba, camera, None, Caption("car", "teal"))
    assert abs(math.degrees(match.elevation) - 27.0) < 1.5
    assert abs(match.azimuth + 0.6) % (2 * math.pi) < math.radians(2.0)
    with pytest.raises(UserError, match="doesn't show a red mushroom"):
        identify(rgba, camera, math.radians(27.0), Caption("mushroom", "red"))


def test_the_scene_s_geometry_is_what_its_rays_meet(small_settings) -> None:
    """A ball of density: depth along the axis and normals are the ball's, towards the camera."""
    from maquette.common.config.reading import build_config
    from maquette.common.scene.views import picture_lights

    pairs = [*small_settings[1::2], "coarse.field.density_bias=40"]
    config = build_config("a red mushroom", None, pairs).coarse
    torch.manual_seed(0)
    nerf = Nerf(config, torch.device("cpu"))
    nerf.prepare(0)
    values = (0.6, 0.3, 3.0, math.radians(40.0))
    camera = Cameras(*(torch.tensor([v]) for v in values))
    views = nerf.views(camera, picture_lights(config.light, camera, 0), 48)
    assert views.geometry is not None
    depth, normals = (found.detach() for found in views.geometry())
    opacity = views.opacity.detach()[0]
    middle = opacity > 0.9
    rows, columns = middle.nonzero().T
    centre = (int(rows.float().mean()), int(columns.float().mean()))
    nearest = float(depth[0][centre])
    assert 2.0 < nearest < 3.0
    # The rim of a ball lies further away than its middle.
    rim = (
        middle & ~torch.nn.functional.max_pool2d((~middle)[None].float(), 3, 1, 1)[0].logical_not()
    )
    assert float(depth[0][rim].mean()) > nearest + 0.05
    backward = torch.nn.functional.normalize(camera.position, dim=-1)[0]
    assert float((normals[0][centre] * backward).sum()) > 0.8


@pytest.mark.parametrize("command", ["run", "coarse"])
def test_two_pictures_are_refused(mistake: Mistake, photo: Path, command: str) -> None:
    line = mistake(command, "--image", str(photo), "--image", str(photo), "--prior", "exact")
    assert "--image was given 2 times" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "nowhere.png"], ["nowhere.png", "no file"]),
        (["--image", "."], ["folder"]),
        (["--image", "{photo}", "--elevation", "steep"], ["--elevation", "degrees"]),
        (["--image", "{photo}", "--elevation", "100"], ["image.elevation"]),
        (["--image", "{photo}", "--fovy", "0"], ["image.fovy"]),
        (["--image", "{photo}", "--depth", "nowhere.png"], ["nowhere.png"]),
        (["--image", "{photo}", "--prior", "exact", "a red mushrom"], ["'mushrom'"]),
        (["--image", "{photo}", "--set", "image.fil=1"], ["image.fil", "fill"]),
        (
            ["--image", "{photo}", "--prior", "exact", "--set", "coarse.judges.prior=0",
             "--set", "coarse.judges.reference=0"],
            ["coarse.judges"],
        ),
        (
            ["--image", "{photo}", "--prior", "exact", "--set", "coarse.judges.clip=1"],
            ["clip", "prompt"],
        ),
        ([], ["prompt is empty", "--image"]),
        (["--elevation", "10"], ["image.path"]),
    ],
)  # fmt: skip
def test_what_can_t_be_is_told_before_a_folder_is_made(
    mistake: Mistake, photo: Path, arguments: list[str], words: list[str]
) -> None:
    line = mistake("run", *(a.format(photo=photo) for a in arguments))
    assert all(word in line for word in words), line


def test_a_text_prior_with_a_picture_alone_is_told(
    mistake: Mistake, photo: Path, tmp_path_factory: pytest.TempPathFactory, capfd
) -> None:
    from tests.reference.tiny_models import build as build_model

    folder = build_model("sd15", tmp_path_factory.mktemp("models") / "sd")
    capfd.readouterr()
    line = mistake("run", "--image", str(photo), "--prior", str(folder))
    assert "takes no picture" in line
    assert "prompt" in line
    told = ("--image", str(photo), "--prior", str(folder), "--elevation", "auto")
    assert "--elevation auto" in mistake("run", "a red chair", *told)

"""Pages of runs: self-contained, and with something to see and to turn in a real browser."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from maquette.common.config.reading import build_config
from maquette.common.errors import UserError
from maquette.common.runs.folder import open_or_create, open_run
from maquette.common.view.page import page, write_page
from maquette.common.view.ports import free_port, is_loopback, told_listening
from maquette.common.view.three import three_js
from tests.browser import browser, page_at, picture
from tests.made_run import ball, made_run

BLUE = (30, 30, 220)


def addresses(text: str) -> list[str]:
    """Where a page gets things from."""
    return re.findall(r'(?:src|href)="([^"]*)"', text)


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    run = made_run(tmp_path, "one")
    text = page([run])
    found = addresses(text)
    assert found
    assert all(address.startswith("data:") for address in found)
    assert "import(" not in text.replace(three_js(), "")
    assert "THREE.GLTFLoader" in text
    assert "a red mushroom" in text
    assert "41.5" in text
    assert write_page([str(run.folder)]) == run.folder / "view.html"


def test_the_page_is_another_when_the_model_is(tmp_path: Path) -> None:
    run = made_run(tmp_path, "one")
    before = page([run])
    shutil.rmtree(run.export)
    assert "no exported model yet" in page([run])
    ball(run.export, BLUE)
    data = re.findall(r'id="data">(.*?)</script>', before + page([run]))
    assert len(data) == 2
    assert data[0] != data[1]


def test_texts_of_a_run_cannot_end_the_page(tmp_path: Path) -> None:
    prompt = 'a red mushroom "</script><script>alert(1)</script>'
    config = build_config("a red mushroom").model_copy(update={"prompt": prompt})
    run = open_or_create(config, str(tmp_path / "run"))
    assert "<script>alert" not in page([run])


def test_several_runs_are_compared(tmp_path: Path) -> None:
    one, two = made_run(tmp_path, "one"), made_run(tmp_path, "two", seed=7)
    path = write_page([str(one.folder), str(two.folder)])
    assert path == tmp_path / "compare.html"
    text = path.read_text("utf-8")
    assert text.count("<canvas") == 2
    assert '<tr class="differs"><td>seed</td><td>0</td><td>7</td></tr>' in text
    with pytest.raises(UserError, match="1 to 8 runs"):
        write_page([str(one.folder)] * 9)
    with pytest.raises(UserError, match="no run folder"):
        write_page([str(tmp_path / "nowhere")])


def test_a_trimesh_without_its_viewer_is_told(monkeypatch) -> None:
    three_js.cache_clear()
    monkeypatch.setattr(trimesh, "__file__", "/nowhere/trimesh/__init__.py")
    with pytest.raises(UserError, match="brings no viewer"):
        three_js()
    monkeypatch.undo()
    assert "Three.js Authors" in three_js()  # its licence's notice goes along


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 50
    with pytest.raises(UserError, match="--port: expected 1 to 65535"):
        free_port("127.0.0.1", 0)
    with pytest.raises(UserError, match=r"no such address|cannot listen"):
        free_port("no.such.host.invalid", 8170)
    assert is_loopback("127.0.0.1")
    assert not is_loopback("0.0.0.0")
    assert "this machine alone" in told_listening("127.0.0.1", 1)
    assert "anyone" in told_listening("0.0.0.0", 1)


def covered(image: np.ndarray) -> np.ndarray:
    """Which pixels are not white."""
    return (image < 240).any(axis=-1)


def mean(image: np.ndarray) -> np.ndarray:
    """The mean colour of what isn't white."""
    return image[covered(image)].mean(axis=0)


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    one, two = made_run(tmp_path, "one"), made_run(tmp_path, "two", seed=7, color=BLUE)
    single = write_page([str(one.folder)])
    both = write_page([str(one.folder), str(two.folder)])
    with browser() as opened:
        with page_at(single.as_uri(), opened) as (shown, wrong):
            shown.wait_for_selector("canvas[data-loaded=yes]", timeout=120_000)
            shown.wait_for_timeout(1000)
            canvas = shown.locator("canvas")
            lit = picture(canvas)
            assert 0.05 < covered(lit).mean() < 0.6
            red, green, blue = mean(lit)
            assert red > 2 * max(green, blue)
            looks = {}
            for mode in ("texture", "normals", "wireframe"):
                shown.click(f"button[data-mode={mode}]")
                shown.wait_for_timeout(500)
                looks[mode] = picture(canvas)
                assert covered(looks[mode]).mean() > 0.01
            # The texture alone is one colour, unlit; wires leave most of the ball open.
            np.testing.assert_allclose(mean(looks["texture"]), (220, 30, 30), atol=12)
            assert covered(looks["wireframe"]).sum() < covered(looks["texture"]).sum()
            assert looks["normals"][covered(looks["normals"])].std(axis=0).min() > 20
            box = canvas.bounding_box()
            before = canvas.get_attribute("data-azimuth")
            shown.mouse.move(box["x"] + 100, box["y"] + 100)
            shown.mouse.down()
            shown.mouse.move(box["x"] + 200, box["y"] + 120)
            shown.mouse.up()
            shown.wait_for_timeout(500)
            assert canvas.get_attribute("data-azimuth") != before
            assert shown.locator("img").count() >= 2
            assert shown.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
            assert wrong == []
        with page_at(both.as_uri(), opened) as (shown, wrong):
            shown.wait_for_function(
                "document.querySelectorAll('canvas[data-loaded=yes]').length == 2",
                timeout=120_000,
            )
            shown.click("button[data-turn]")
            shown.wait_for_timeout(1500)
            shown.click("button[data-turn]")
            shown.wait_for_timeout(500)
            turns = [shown.locator("canvas").nth(i).get_attribute("data-azimuth") for i in (0, 1)]
            assert turns[0] == turns[1] != "0.6000"  # cameras move together
            colors = [mean(picture(shown.locator("canvas").nth(i))) for i in (0, 1)]
            assert colors[0][0] > colors[0][2]
            assert colors[1][2] > colors[1][0]
            assert wrong == []


@pytest.mark.slow
def test_a_run_is_followed_live(tmp_path: Path, small_run: Path) -> None:
    pytest.importorskip("viser")
    from maquette.common.view.live import Follower, fine_mesh, nerf_points

    class Recorder:
        """A viser server that keeps what it is told to show."""

        def __init__(self) -> None:
            self.shown: list[tuple[str, tuple]] = []
            self.scene = self.gui = self

        def __getattr__(self, name: str):
            def call(*arguments, **_):
                self.shown.append((name, arguments))
                return self

            return call

        def remove(self) -> None:
            pass

    folder = Path(shutil.copytree(small_run, tmp_path / "run"))
    run = open_run(str(folder))
    points, colors = nerf_points(run, 12)
    assert points.shape == colors.shape
    assert len(points) > 100
    assert np.abs(points).max() <= 1.0
    assert 0.3 < np.linalg.norm(points, axis=-1).max() < 0.9  # the ball it starts from
    (vertices, paint), faces = fine_mesh(run, 6)
    assert faces.max() < len(vertices) == len(paint)
    shutil.move(folder / "fine", tmp_path / "later")
    recorder = Recorder()
    follower = Follower(run, recorder)
    follower.look()
    assert [name for name, _ in recorder.shown][-1] == "add_point_cloud"
    shutil.move(tmp_path / "later", folder / "fine")
    assert follower.look()  # it is exported: nothing more will come
    assert [name for name, _ in recorder.shown][-1] == "add_mesh_trimesh"
    count = len(recorder.shown)
    follower.look()
    assert len(recorder.shown) == count  # nothing new


@pytest.mark.slow
def test_the_live_page_in_a_browser(tmp_path: Path, small_run: Path) -> None:
    """From the NeRF to the mesh, while the page stays open."""
    viser = pytest.importorskip("viser")
    from maquette.common.view.live import Follower

    folder = Path(shutil.copytree(small_run, tmp_path / "run"))
    later = {part: tmp_path / part for part in ("fine", "export")}
    for part, place in later.items():
        shutil.move(folder / part, place)
    with browser() as opened:
        port = free_port("127.0.0.1", 8270)
        server = viser.ViserServer(host="127.0.0.1", port=port, verbose=False)
        try:
            follower = Follower(open_run(str(folder)), server)
            follower.look()
            with page_at(f"http://127.0.0.1:{port}", opened) as (shown, wrong):
                shown.get_by_text("a red mushroom").wait_for()
                points = settled(shown)
                assert 0.01 < covered(points).mean() < 0.9
                for part, place in later.items():
                    shutil.move(place, folder / part)
                assert follower.look()
                shown.get_by_text("exported").wait_for()
                mesh = settled(shown, points)
                assert 0.01 < covered(mesh).mean() < 0.9
                assert wrong == []
        finally:
            server.stop()


def settled(page: Any, before: np.ndarray | None = None) -> np.ndarray:
    """What the scene looks like once it shows something, and something else than before."""
    canvas = page.locator("canvas").first
    canvas.wait_for()
    for _ in range(100):
        shown = picture(canvas)
        if covered(shown).mean() > 0.01 and (before is None or (shown != before).mean() > 0.01):
            return shown
        page.wait_for_timeout(200)
    raise AssertionError("nothing new to see")

"""The page with forms: its queue of processes, and in a real browser from prompt to download."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maquette.common.begin import Choices
from maquette.common.commands.ui import ui
from maquette.common.config.reading import build_config
from maquette.common.errors import UserError
from maquette.common.ui.desk import DESK, Desk, Ticket
from maquette.common.ui.server import opened, trim
from maquette.common.ui.state import files_of, state_of, told
from tests.browser import browser, page_at, picture
from tests.made_run import ball, made_run

PROMPT = "a red mushroom"

RUN = """
import json, os, signal, sys, time
words = sys.argv[1:]
folder = words[words.index("--out") + 1] if "--out" in words else words[-1]
os.makedirs(folder + "/export", exist_ok=True)
open(folder + "/config.yaml", "w").write("x")
open(folder + "/words", "a").write(words[0] + "\\n")
def told(**line): print(json.dumps(line), flush=True)
told(event="progress", stage="coarse", step=3, total=9, run_seconds_left=61.0)
if "fail" in folder: told(event="error", message="no such model"); sys.exit(2)
while os.path.exists(os.path.join(os.path.dirname(__file__), "hold")): time.sleep(0.02)
open(folder + "/export/report.json", "w").write("{}")
open(folder + "/export/a.glb", "w").write("glb")
"""
"""Stands for the program: it tells a line, waits while there is a file `hold` beside it, and leaves
what an export leaves.
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "fake.py").write_text(RUN)
    return (sys.executable, str(tmp_path / "fake.py"))


def desk_of(tmp_path: Path, command: tuple[str, ...]) -> Desk:
    return Desk(tmp_path / "runs", command=command)


def until(desk: Desk, name: str, *states: str) -> Ticket:
    for _ in range(2400):
        desk.turn()
        ticket = desk.ticket(name)
        if ticket.state in states:
            return ticket
        time.sleep(0.05)
    raise AssertionError(f"{name} is still {desk.ticket(name)}")


def test_a_job_is_queued_run_and_found_finished(tmp_path: Path, command) -> None:
    desk = desk_of(tmp_path, command)
    ticket = desk.make(PROMPT, Choices(prior="exact", seed=3))
    assert ticket.options[2:] == ("--log", "none", "--prior", "exact", "--seed", "3")
    assert until(desk, ticket.id, "finished").error is None
    state = state_of(desk, ticket.id)
    assert json.loads(json.dumps(state)) == state
    assert state["progress"]["step"] == 3
    assert state["model"].endswith("a.glb")
    assert state["files"] == files_of(desk.root / ticket.folder) == [state["model"]]


def test_a_picture_is_kept_until_its_turn_comes(tmp_path: Path, command, monkeypatch) -> None:
    seen = []

    def planned(prompt: str, choices: Choices):
        seen.append(list(choices.images))
        return build_config(PROMPT)

    monkeypatch.setattr("maquette.common.ui.desk.plan", planned)
    upload = tmp_path / "Upload.PNG"
    upload.write_bytes(b"picture")
    desk = desk_of(tmp_path, command)
    ticket = desk.make("", Choices(images=[str(upload)]))
    upload.unlink()
    assert seen == [[str(upload)]]
    place = Path(ticket.options[ticket.options.index("--image") + 1])
    assert place.parent == desk.root / DESK
    assert place.suffix == ".png"
    assert place.read_bytes() == b"picture"
    assert until(desk, ticket.id, "finished").error is None


def test_a_mesh_is_painted(tmp_path: Path, command) -> None:
    upload = tmp_path / "Upload.GLB"
    upload.write_bytes(b"mesh")
    desk = desk_of(tmp_path, command)
    ticket = desk.make(PROMPT, Choices(prior="exact", preset="fast"), str(upload))
    upload.unlink()
    place = Path(ticket.options[ticket.options.index("--mesh") + 1])
    assert (place.parent, place.suffix) == (desk.root / DESK, ".glb")
    assert place.read_bytes() == b"mesh"
    until(desk, ticket.id, "finished")
    assert (desk.root / ticket.folder / "words").read_text() == "texture\n"
    for prompt, file, images, wrong in (
        ("", "a.glb", [], "say what it is"),
        (PROMPT, "a.exe", [], "can be read from .obj"),
        (PROMPT, "a.glb", ["b.png"], "not both"),
        ("a red dragon", "a.glb", [], "doesn't know 'dragon'"),
    ):
        with pytest.raises(UserError, match=wrong):
            desk.make(prompt, Choices(prior="exact", images=images), file)
    assert len(desk.tickets()) == 1


def test_one_after_the_other(tmp_path: Path, command) -> None:
    (tmp_path / "hold").touch()
    desk = desk_of(tmp_path, command)
    first, second = desk.make(PROMPT, Choices()), desk.make(PROMPT, Choices())
    assert (first.state, second.state) == ("running", "queued")
    assert second.folder == "a-red-mushroom-2"
    assert (desk.ahead(first.id), desk.ahead(second.id)) == (0, 1)
    assert told(state_of(desk, second.id)) == f"**{PROMPT}**: queued, 1 before it"
    (tmp_path / "hold").unlink()
    until(desk, first.id, "finished")
    until(desk, second.id, "finished")


def test_stopped_and_resumed(tmp_path: Path, command) -> None:
    (tmp_path / "hold").touch()
    desk = desk_of(tmp_path, command)
    name = desk.make(PROMPT, Choices()).id
    while not (desk.root / name / "words").is_file():
        time.sleep(0.05)
    assert desk.stop(name).state == "stopped"
    (tmp_path / "hold").unlink()
    assert desk.resume(name).state == "running"
    assert until(desk, name, "finished").error is None
    assert (desk.root / name / "words").read_text().splitlines() == ["run", "resume"]


def test_a_server_that_ends_loses_no_run(tmp_path: Path, command) -> None:
    (tmp_path / "hold").touch()
    first = desk_of(tmp_path, command)
    running, waiting = first.make(PROMPT, Choices()).id, first.make(PROMPT, Choices()).id
    pid = first.ticket(running).pid
    later = desk_of(tmp_path, command)  # knows nothing but the files
    later.turn()
    assert later.ticket(running).state == "running"
    assert later.ticket(running).pid == pid
    (tmp_path / "hold").unlink()
    first._children[running].wait()
    assert until(later, running, "finished")
    assert until(later, waiting, "finished")


def test_what_goes_wrong_is_told(tmp_path: Path, command, monkeypatch) -> None:
    desk = desk_of(tmp_path, command)
    with pytest.raises(UserError, match="doesn't know 'dragon'"):
        desk.make("a red dragon", Choices())
    with pytest.raises(UserError, match="--preset"):
        desk.make(PROMPT, Choices(preset="slow"))
    assert desk.tickets() == []
    monkeypatch.setattr("maquette.common.ui.desk.slug", lambda text: "fail")
    name = desk.make(PROMPT, Choices()).id
    assert until(desk, name, "failed").error == "no such model"
    assert told(state_of(desk, name)) == f"**{PROMPT}**: failed: no such model"


def test_names_of_jobs_lead_nowhere_else(tmp_path: Path, command) -> None:
    desk = desk_of(tmp_path, command)
    (tmp_path / "secret.json").write_text("{}")
    for name in ("../../secret", "/etc/passwd", "..", "", "a/b"):
        with pytest.raises(UserError, match="no job"):
            desk.ticket(name)


def test_beyond_this_machine_a_password_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MAQUETTE_PASSWORD"):
        ui(str(tmp_path / "runs"), host="0.0.0.0")
    assert list(tmp_path.iterdir()) == []


def test_temporary_copies_are_bounded_in_all(tmp_path: Path) -> None:
    for age, name in enumerate(("a/new.png", "b/old.png", "c/oldest.png")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, ns=(10**18 - age, 10**18 - age))
    trim(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["new.png", "old.png"]
    trim(tmp_path, 99)
    assert list(tmp_path.rglob("*.png")) == []
    trim(tmp_path / "nowhere", 1)


def test_progress_for_people() -> None:
    state = {"prompt": "a cat", "state": "running", "error": None, "ahead": 0}
    step = {"stage": "fine", "step": 5, "total": 9, "run_seconds_left": 61.0}
    assert told({**state, "progress": step}) == "**a cat**: running, fine 5/9, 1:01 left"
    part = {"stage": "export", "doing": "bake"}
    assert told({**state, "progress": part}) == "**a cat**: running, export: bake"
    assert told({**state, "progress": {}}) == "**a cat**: running"


@pytest.mark.slow
def test_the_program_itself_takes_what_the_desk_says(
    tmp_path: Path, small_settings: list[str]
) -> None:
    desk = Desk(tmp_path / "runs", settings=small_settings[1::2])
    name = desk.make(PROMPT, Choices(seed=3, preset="default")).id
    while not desk.progress(desk.ticket(name)):
        desk.turn()
        assert desk.ticket(name).state == "running", desk.log(desk.ticket(name)).read_text()
        time.sleep(0.1)
    assert desk.stop(name).state == "stopped"
    assert (desk.root / name / "config.yaml").is_file()


STAGED = """
import os, shutil, sys, time
words = sys.argv[1:]
folder = words[words.index("--out") + 1] if "--out" in words else words[-1]
here = os.path.dirname(__file__)
os.makedirs(folder, exist_ok=True)
for part in ("config.yaml", "events.jsonl", "coarse"):
    place = os.path.join(here, "made", "a-red-mushroom", part)
    (shutil.copytree if part == "coarse" else shutil.copy)(place, os.path.join(folder, part))
print('{"event": "progress", "stage": "coarse", "step": 3, "total": 9}', flush=True)
while not os.path.exists(os.path.join(here, "go")): time.sleep(0.05)
for part in ("fine", "export"):
    shutil.copytree(os.path.join(here, "made", "a-red-mushroom", part), os.path.join(folder, part))
"""
"""Stands for the program: leaves half of a run, waits for a sign, and leaves the rest."""


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Prompt, progress, reload in the middle, model, download; a second visitor with a mesh."""
    pytest.importorskip("gradio")
    made_run(tmp_path / "made", "a-red-mushroom")
    (tmp_path / "staged.py").write_text(STAGED)
    desk = desk_of(tmp_path, (sys.executable, str(tmp_path / "staged.py")))
    with browser() as chromium, opened(desk, port=8190) as listening:
        address, who = listening.split("  ")
        assert who == "(this machine alone can reach it)"
        with page_at(address, chromium) as (first, wrong):
            a_mistake(first)
            asked_for(first, PROMPT)
            first.locator("#told", has_text="running, coarse 3/9").wait_for()
            first.locator("#growth img").wait_for()
            assert noticed(wrong) == []
            first.reload()
            wrong.clear()  # what the page that went away was still waiting for is no fault
            first.locator("#told", has_text="running, coarse 3/9").wait_for()
            with page_at(address, chromium) as (second, also_wrong):
                file = second.locator("input[type=file][accept*='.glb']")
                file.set_input_files(ball(tmp_path / "upload"))
                second.get_by_text("ball.glb").first.wait_for()
                asked_for(second, "a blue mushroom")
                second.locator("#told", has_text="queued, 1 before it").wait_for()
                assert desk.ticket("a-blue-mushroom").command == "texture"
                second.get_by_role("button", name="Stop").click()
                second.locator("#told", has_text="stopped").wait_for()
                assert noticed(also_wrong) == []
            (tmp_path / "go").touch()
            a_model(first, tmp_path)
            assert noticed(wrong) == []
        assert [t.state for t in desk.tickets()] == ["finished", "stopped"]
        the_api(address, desk)
        nothing_else(address, tmp_path)


def noticed(wrong: list[str]) -> list[str]:
    """What a page complains of, but for what is no fault of ours.

    Its viewer tries WebGPU first, says so where there is none, and takes WebGL.
    """
    others = ("favicon", "manifest", "WebGPU")
    return [text for text in wrong if not any(word in text for word in others)]


def asked_for(page: Any, prompt: str) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Prior").fill("exact")
    page.get_by_role("button", name="Make", exact=True).click()


def a_mistake(page: Any) -> None:
    page.get_by_label("Prompt").fill("a red dragon")
    page.get_by_role("button", name="Make", exact=True).click()
    page.get_by_text("doesn't know 'dragon'").first.wait_for()


def a_model(page: Any, tmp_path: Path) -> None:
    """Wait for the model, see it, download it."""
    page.locator("#told", has_text="finished").wait_for()
    link = page.locator("a[href*='a-red-mushroom.glb']").first
    with page.expect_download() as found:
        link.click()
    found.value.save_as(tmp_path / "got.glb")
    own = tmp_path / "runs" / "a-red-mushroom" / "export" / "a-red-mushroom.glb"
    assert (tmp_path / "got.glb").read_bytes() == own.read_bytes()
    canvas = page.locator("#model canvas").first
    canvas.wait_for()
    for _ in range(100):
        red, green, blue = np.moveaxis(picture(canvas).astype(int), -1, 0)
        if ((red > 1.5 * green) & (red > 1.5 * blue)).mean() > 0.02:
            break
        page.wait_for_timeout(200)
    else:
        raise AssertionError("no red ball in the viewer")
    page.get_by_role("tab", name="Gallery").click()
    page.get_by_role("button", name="Look again").click()
    page.get_by_text("a red mushroom, exported").first.wait_for()


def the_api(address: str, desk: Desk) -> None:
    """The same things by gradio's client, as docs/ui.md shows them."""
    from gradio_client import Client

    client = Client(address, verbose=False)
    job = client.predict(PROMPT, None, None, "exact", "fast", 0, api_name="/make")
    until(desk, job, "finished")
    state = client.predict(job, api_name="/status")
    assert (state["id"], state["state"]) == ("a-red-mushroom-2", "finished")
    jobs = client.predict(api_name="/jobs")
    assert [each["id"] for each in jobs] == [job, "a-blue-mushroom", "a-red-mushroom"]
    with pytest.raises(Exception, match="seed: expected a whole number"):
        client.predict(PROMPT, None, None, "exact", "fast", -1, api_name="/make")


def nothing_else(address: str, tmp_path: Path) -> None:
    """What isn't a run's file isn't handed out."""
    for hidden in (f"runs/{DESK}/a-red-mushroom.json", "got.glb", "runs/../got.glb"):
        with pytest.raises(OSError, match=r"403|404|Forbidden|Not Found"):
            urllib.request.urlopen(f"{address}/gradio_api/file={tmp_path / hidden}", timeout=60)

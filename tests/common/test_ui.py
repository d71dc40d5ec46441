"""The page with forms: its queue of processes, and in a real browser from prompt to download."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from maquette import pipeline
from maquette.common.begin import Choices
from maquette.common.config.reading import build_config
from maquette.common.errors import UserError
from maquette.common.ui.desk import DESK, Desk, Ticket
from maquette.common.ui.server import files_of, serve, state_of, told
from maquette.common.view.ports import free_port
from tests.browser import browser, page_at

ROOT = Path(pipeline.__file__).parent
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
end = time.time() + float(os.environ.get("FAKE_SECONDS", "0"))
while time.time() < end: time.sleep(0.02)
open(folder + "/export/report.json", "w").write("{}")
open(folder + "/export/a.glb", "w").write("glb")
"""
"""Stands for the program: it tells a line, waits, and leaves what an export leaves."""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "fake.py").write_text(RUN)
    return (sys.executable, str(tmp_path / "fake.py"))


def desk_of(tmp_path: Path, command: tuple[str, ...]) -> Desk:
    return Desk(tmp_path / "runs", command=command)


def until(desk: Desk, name: str, *states: str) -> Ticket:
    for _ in range(600):
        desk.turn()
        ticket = desk.ticket(name)
        if ticket.state in states:
            return ticket
        time.sleep(0.1)
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


def test_one_after_the_other(tmp_path: Path, command, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "1.5")
    desk = desk_of(tmp_path, command)
    first, second = desk.make(PROMPT, Choices()), desk.make(PROMPT, Choices())
    assert (first.state, second.state) == ("running", "queued")
    assert second.folder == "a-red-mushroom-2"
    assert (desk.ahead(first.id), desk.ahead(second.id)) == (0, 1)
    assert told(state_of(desk, second.id)) == f"**{PROMPT}**: queued, 1 before it"
    until(desk, first.id, "finished")
    until(desk, second.id, "finished")


def test_stopped_and_resumed(tmp_path: Path, command, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "30")
    desk = desk_of(tmp_path, command)
    name = desk.make(PROMPT, Choices()).id
    while not (desk.root / name / "words").is_file():
        time.sleep(0.05)
    assert desk.stop(name).state == "stopped"
    monkeypatch.setenv("FAKE_SECONDS", "0")
    assert desk.resume(name).state == "running"
    assert until(desk, name, "finished").error is None
    assert (desk.root / name / "words").read_text().splitlines() == ["run", "resume"]


def test_a_server_that_ends_loses_no_run(tmp_path: Path, command, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "2")
    first = desk_of(tmp_path, command)
    running, waiting = first.make(PROMPT, Choices()).id, first.make(PROMPT, Choices()).id
    pid = first.ticket(running).pid
    later = desk_of(tmp_path, command)  # knows nothing but the files
    later.turn()
    assert later.ticket(running).state == "running"
    assert later.ticket(running).pid == pid
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
        serve(tmp_path, host="0.0.0.0")
    assert list(tmp_path.iterdir()) == []


def test_progress_for_people() -> None:
    state = {"prompt": "a cat", "state": "running", "error": None, "ahead": 0}
    step = {"stage": "fine", "step": 5, "total": 9, "run_seconds_left": 61.0}
    assert told({**state, "progress": step}) == "**a cat**: running, fine 5/9, 1:01 left"
    part = {"stage": "export", "doing": "bake"}
    assert told({**state, "progress": part}) == "**a cat**: running, export: bake"
    assert told({**state, "progress": {}}) == "**a cat**: running"


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path, small_settings: list[str]) -> None:
    pytest.importorskip("gradio")
    with browser() as opened:
        port = free_port("127.0.0.1", 8190)
        path = os.pathsep.join([str(ROOT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        code = "from maquette.pipeline import main; main()"
        words = ["ui", "--runs", "runs", "--port", str(port), *small_settings]
        server = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stderr is not None
            assert "this machine alone can reach it" in server.stderr.readline()
            address = f"http://127.0.0.1:{port}"
            answers(address)
            through(address, opened, tmp_path)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    assert server.returncode in (0, 1, 130, -signal.SIGINT)


def answers(address: str) -> None:
    """Wait until a server does."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=30):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server doesn't answer")


def through(address: str, opened, tmp_path: Path) -> None:
    """Prompt, progress, reload in the middle, model, download; and a second visitor."""
    with page_at(address, opened) as (shown, wrong):
        shown.get_by_label("Prompt").fill("a red dragon")
        shown.get_by_role("button", name="Make", exact=True).click()
        shown.get_by_text("doesn't know 'dragon'").first.wait_for(timeout=120_000)
        shown.get_by_label("Prompt").fill(PROMPT)
        shown.get_by_label("Prior").fill("exact")
        shown.get_by_role("button", name="Make", exact=True).click()
        shown.locator("#told", has_text="running").wait_for(timeout=120_000)
        shown.reload()
        shown.locator("#told", has_text=PROMPT).wait_for(timeout=120_000)
        with page_at(address, opened) as (other, _):
            other.get_by_label("Prompt").fill("a blue mushroom")
            other.get_by_label("Prior").fill("exact")
            other.get_by_role("button", name="Make", exact=True).click()
            other.locator("#told", has_text="a blue mushroom").wait_for(timeout=120_000)
            shown.locator("#told", has_text="finished").wait_for(timeout=900_000)
            shown.locator("a[href*='a-red-mushroom.glb']").first.wait_for(timeout=120_000)
            with shown.expect_download(timeout=120_000) as found:
                shown.locator("a[href*='a-red-mushroom.glb']").first.click()
            found.value.save_as(tmp_path / "got.glb")
            own = tmp_path / "runs" / "a-red-mushroom" / "export" / "a-red-mushroom.glb"
            assert (tmp_path / "got.glb").read_bytes() == own.read_bytes()
            other.locator("#told", has_text="finished").wait_for(timeout=900_000)
        desk = Desk(tmp_path / "runs")
        assert [ticket.state for ticket in desk.tickets()] == ["finished", "finished"]
        for hidden in (f"{DESK}/a-red-mushroom.json", "../got.glb"):
            place = (tmp_path / "runs" / hidden).resolve()
            with pytest.raises(OSError, match=r"403|404|Forbidden|Not Found"):
                urllib.request.urlopen(f"{address}/gradio_api/file={place}", timeout=60)
        # The page's viewer tries WebGPU first, says so where there is none, and takes WebGL.
        others = ("favicon", "manifest", "WebGPU")
        ours = [text for text in wrong if not any(word in text for word in others)]
        assert ours == []

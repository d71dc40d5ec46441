"""The page itself, by gradio, and with it an HTTP API of the same names."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from ..begin import Choices
from ..config.presets import PRESETS
from ..errors import UserError
from ..runs.progress import clock, say
from ..shelf.summary import poster_of, runs_in, summarize
from ..view.ports import LOOPBACK, free_port, is_loopback, told_listening
from .desk import DESK, Desk, Ticket

PORT = 8180
USER = "maquette"
LARGEST = "20mb"
"""Of an upload; only pictures can be uploaded."""
KEPT = (3600, 86400)
"""Seconds between the looks for temporary copies, and the age at which they are removed."""
_SUFFIXES = (".obj", ".mtl", ".png", ".glb", ".stl", ".ply", ".usdz", ".usdc", ".zip")


def state_of(desk: Desk, name: str) -> dict[str, Any]:
    """How a job is, as JSON: what the API's `/status` answers.

    id, prompt, state, ahead (jobs before it), error, progress (as in docs/watch.md), preview and
    model (paths or null), files.
    """
    desk.turn()
    ticket = desk.ticket(name)
    folder = desk.root / ticket.folder
    poster = poster_of(folder)
    files = files_of(folder)
    return {
        "id": ticket.id,
        "prompt": ticket.prompt,
        "state": ticket.state,
        "ahead": desk.ahead(name),
        "error": ticket.error,
        "progress": dict(desk.progress(ticket)),
        "preview": None if poster is None else str(latest(folder) or poster),
        "model": next((file for file in files if file.endswith(".glb")), None),
        "files": files,
    }


def files_of(folder: Path) -> list[str]:
    """The exported files of a run, once all of them are there."""
    if not (folder / "export" / "report.json").is_file():
        return []
    return [str(path) for path in sorted((folder / "export").iterdir()) if path.suffix in _SUFFIXES]


def latest(folder: Path) -> Path | None:
    """The newest grid of previews."""
    found = [path for stage in ("coarse", "fine") for path in (folder / stage / "growth").glob("*")]
    grids = [path for path in found if path.suffix == ".png" and path.stem.isdigit()]
    return max(grids, key=lambda path: path.stat().st_mtime, default=None)


def told(state: dict[str, Any]) -> str:
    """A job's state for people."""
    head = f"**{state['prompt']}**: {state['state']}"
    if state["state"] == "queued":
        return f"{head}, {state['ahead']} before it"
    if state["error"]:
        return f"{head}: {state['error']}"
    progress = state["progress"]
    if state["state"] != "running" or not progress:
        return head
    if "doing" in progress:
        return f"{head}, {progress['stage']}: {progress['doing']}"
    left = progress.get("run_seconds_left") or progress.get("stage_seconds_left")
    more = "" if left is None else f", {clock(left)} left"
    return f"{head}, {progress['stage']} {progress['step']}/{progress['total']}{more}"


def build(desk: Desk) -> Any:
    """The page of a desk, as gradio's `Blocks`."""
    import gradio as gr

    def make(prompt: str, image: str | None, prior: str, preset: str, seed: float) -> str:
        """Queue a run of a prompt, a picture, or both; its name."""
        if seed != int(seed) or seed < 0:
            raise gr.Error("seed: expected a whole number of 0 or more")
        chosen, images = prior.strip() or None, [image] if image else []
        choices = Choices(prior=chosen, preset=preset, seed=int(seed), images=images)
        return _asked(gr, lambda: desk.make(prompt, choices).id)

    def status(name: str) -> dict[str, Any]:
        """How a job is."""
        return _asked(gr, lambda: state_of(desk, name))

    def look(name: str | None) -> tuple[Any, ...]:
        if not name:
            return "nothing asked for yet", None, None, None
        state = status(name)
        return told(state), state["preview"], state["model"], state["files"] or None

    def stop(name: str) -> dict[str, Any]:
        """Stop a job; it can be resumed."""
        _asked(gr, lambda: desk.stop(name))
        return status(name)

    def resume(name: str) -> dict[str, Any]:
        """Go on with a job."""
        _asked(gr, lambda: desk.resume(name))
        return status(name)

    def jobs() -> list[dict[str, Any]]:
        """All jobs, newest first."""
        desk.turn()
        return [_row(ticket) for ticket in reversed(desk.tickets())]

    def gallery() -> list[tuple[str, str]]:
        found = [summarize(folder) for folder in runs_in(str(desk.root))]
        found.sort(key=lambda each: -each.created)
        return [(str(each.poster), f"{each.prompt}, {each.stage}") for each in found if each.poster]

    with gr.Blocks(title="maquette", analytics_enabled=False, delete_cache=KEPT) as blocks:
        kept = gr.BrowserState("", storage_key="maquette-job", secret="maquette")
        gr.Markdown("# maquette\nA prompt goes in, a textured mesh comes out.")
        with gr.Tab("Make"), gr.Row():
            with gr.Column():
                prompt = gr.Textbox(label="Prompt", placeholder="a red mushroom", max_length=1000)
                image = gr.Image(label="Picture", type="filepath", sources=["upload"], height=160)
                prior = gr.Textbox(label="Prior", value="toybox", max_length=300)
                preset = gr.Radio(list(PRESETS), value="default", label="Preset")
                seed = gr.Number(label="Seed", value=0, precision=0)
                start = gr.Button("Make", variant="primary")
                with gr.Row():
                    halt, go = gr.Button("Stop"), gr.Button("Resume")
                words = gr.Markdown("nothing asked for yet", elem_id="told")
                files = gr.File(label="Files", file_count="multiple", interactive=False)
            with gr.Column():
                model = gr.Model3D(label="Model", clear_color=(1.0, 1.0, 1.0, 1.0))
                preview = gr.Image(label="Growth", interactive=False)
        with gr.Tab("Gallery"):
            shown = gr.Gallery(label="Runs", columns=4)
            again = gr.Button("Look again")
        seen = [words, preview, model, files]
        start.click(make, [prompt, image, prior, preset, seed], kept, api_name="make").then(
            look, kept, seen, api_visibility="private"
        )
        hidden = gr.JSON(visible=False)
        halt.click(stop, kept, hidden, api_name="stop").then(
            look, kept, seen, api_visibility="private"
        )
        go.click(resume, kept, hidden, api_name="resume").then(
            look, kept, seen, api_visibility="private"
        )
        gr.Timer(2.0).tick(look, kept, seen, api_visibility="private", show_progress="hidden")
        blocks.load(look, kept, seen, api_visibility="private")
        blocks.load(gallery, None, shown, api_visibility="private")
        again.click(gallery, None, shown, api_visibility="private")
        gr.api(status, api_name="status")
        gr.api(jobs, api_name="jobs")
    return blocks


def _asked(gr: Any, call: Any) -> Any:
    """What a call gives; a visitor's mistake becomes a line on the page."""
    try:
        return call()
    except UserError as error:
        raise gr.Error(str(error)) from None


def _row(ticket: Ticket) -> dict[str, Any]:
    return {"id": ticket.id, "prompt": ticket.prompt, "state": ticket.state, "error": ticket.error}


def serve(
    root: Path,
    host: str = LOOPBACK,
    port: int = PORT,
    password: str | None = None,
    at_once: int = 1,
    settings: tuple[str, ...] = (),
) -> None:
    """Serve the page until Ctrl-C; runs that work go on without it.

    Raises UserError without gradio, and for a host beyond this machine without a password.
    """
    if not is_loopback(host) and not password:
        raise UserError(
            "others could make runs on this machine: give a password in MAQUETTE_PASSWORD, or "
            "leave --host at 127.0.0.1"
        )
    root.mkdir(parents=True, exist_ok=True)
    copies = tempfile.TemporaryDirectory(prefix="maquette-ui-")
    os.environ["GRADIO_TEMP_DIR"] = copies.name  # gone with the server
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError:
        raise UserError(
            "ui needs gradio, which isn't installed: pip install 'maquette[ui]'"
        ) from None
    port = free_port(host, port)
    desk = Desk(root, at_once, settings)
    stopped = threading.Event()
    turner = threading.Thread(target=_turning, args=(desk, stopped), daemon=True)
    turner.start()
    say(f"maquette ui at {told_listening(host, port)}; Ctrl-C ends it, runs go on", important=True)
    fonts = ["system-ui", "sans-serif"]  # none from elsewhere
    try:
        build(desk).queue(max_size=200).launch(
            server_name=host,
            server_port=port,
            auth=None if not password else (USER, password),
            allowed_paths=[str(desk.root)],
            blocked_paths=[str(desk.root / DESK)],
            max_file_size=LARGEST,
            footer_links=["api"],
            theme=gr.themes.Default(font=fonts, font_mono=["monospace"]),
            quiet=True,
            share=False,
        )
    finally:
        stopped.set()
        copies.cleanup()


def _turning(desk: Desk, stopped: threading.Event) -> None:
    """Start what waits, whether or not a page is open."""
    while not stopped.wait(2.0):
        desk.turn()

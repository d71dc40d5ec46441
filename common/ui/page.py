"""The page itself, by gradio, and with it an HTTP API of the same names."""

from __future__ import annotations

import importlib
from typing import Any

from ..begin import Choices
from ..config.presets import PRESETS
from ..errors import UserError
from ..shelf.summary import runs_in, summarize
from .desk import MESHES, Desk, Ticket
from .state import state_of, told

KEPT = (3600, 86400)
"""Seconds between the looks for temporary copies, and the age at which they are removed."""


def build(desk: Desk) -> Any:
    """The page of a desk, as gradio's `Blocks`."""
    gr = gradio()

    def make(
        prompt: str, image: str | None, mesh: str | None, prior: str, preset: str, seed: float
    ) -> str:
        """Queue a run of a prompt, a picture, or both, or of a mesh to be painted; its name."""
        if seed != int(seed) or seed < 0:
            raise gr.Error("seed: expected a whole number of 0 or more")
        chosen, images = prior.strip() or None, [image] if image else []
        choices = Choices(prior=chosen, preset=preset, seed=int(seed), images=images)
        return _asked(gr, lambda: desk.make(prompt, choices, mesh).id)

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
                mesh = gr.File(
                    label="Mesh to paint", file_types=list(MESHES), type="filepath", height=120
                )
                prior = gr.Textbox(label="Prior", value="toybox", max_length=300)
                preset = gr.Radio(list(PRESETS), value="default", label="Preset")
                seed = gr.Number(label="Seed", value=0, precision=0)
                start = gr.Button("Make", variant="primary")
                with gr.Row():
                    halt, go = gr.Button("Stop"), gr.Button("Resume")
                words = gr.Markdown("nothing asked for yet", elem_id="told")
                files = gr.File(label="Files", file_count="multiple", interactive=False)
            with gr.Column():
                white = (1.0, 1.0, 1.0, 1.0)
                model = gr.Model3D(label="Model", clear_color=white, elem_id="model")
                preview = gr.Image(label="Growth", interactive=False, elem_id="growth")
        with gr.Tab("Gallery"):
            shown = gr.Gallery(label="Runs", columns=4)
            again = gr.Button("Look again")
        seen = [words, preview, model, files]
        asked = [prompt, image, mesh, prior, preset, seed]
        start.click(make, asked, kept, api_name="make").then(
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


def gradio() -> Any:
    """The library. Raises UserError where it isn't installed."""
    try:
        return importlib.import_module("gradio")
    except ImportError:
        raise UserError(
            "ui needs gradio, which isn't installed: pip install 'maquette[ui]'"
        ) from None


def _asked(gr: Any, call: Any) -> Any:
    """What a call gives; a visitor's mistake becomes a line on the page."""
    try:
        return call()
    except UserError as error:
        raise gr.Error(str(error)) from None


def _row(ticket: Ticket) -> dict[str, Any]:
    return {"id": ticket.id, "prompt": ticket.prompt, "state": ticket.state, "error": ticket.error}

"""Following a run while it trains: its NeRF as points, then its mesh, in viser's page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...coarse.nerf import LEVELS
from ...coarse.train import make_scene
from ...fine.train import first_model
from ..errors import UserError
from ..fields.field import EXTENT
from ..runs.checkpoints import DamagedCheckpointError, checkpoint_path, read_tensors, steps_on_disk
from ..runs.folder import Run, open_run
from ..runs.history import read_events
from ..runs.progress import say
from ..shelf.summary import stage_told
from ..watch.growth import pictures
from .ports import LOOPBACK, free_port, told_listening

PORT = 8170
CELLS = 64
"""Lattice cells an axis at which a NeRF is looked at."""
Points = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Positions and colours, `[N, 3]` each, colours in [0, 1]."""


@torch.no_grad()
def nerf_points(run: Run, step: int) -> Points:
    """The lattice points of a coarse checkpoint that are dense, and their albedo."""
    scene = make_scene(run.config.coarse, torch.device("cpu"))
    scene.learner().load(read_tensors(checkpoint_path(run.coarse, step)))
    density = scene.density_lattice(CELLS).reshape(-1)  # pyright: ignore[reportAttributeAccessIssue]
    line = torch.linspace(-EXTENT, EXTENT, CELLS + 1)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3)
    low, high = LEVELS
    found = grid[density > (low * high) ** 0.5]
    _, albedo = scene.field(found)  # pyright: ignore[reportAttributeAccessIssue]
    return found.numpy(), albedo.clamp(0.0, 1.0).numpy()


@torch.no_grad()
def fine_mesh(run: Run, step: int) -> tuple[Points, NDArray[np.int64]]:
    """The vertices of a fine checkpoint's surface with their albedo, and its faces `[F, 3]`."""
    model = first_model(run)
    model.learner(run.config.fine).load(read_tensors(checkpoint_path(run.fine, step)))
    mesh = model.mesh()
    colors = model.albedo(mesh.vertices).clamp(0.0, 1.0).numpy()
    return (mesh.vertices.numpy(), colors), mesh.faces.numpy()


class Follower:
    """Shows a run's newest state on a viser server; `look` again and again."""

    def __init__(self, run: Run, server: Any) -> None:
        self._run, self._server = run, server
        server.scene.set_up_direction("+z")
        self._told = server.gui.add_markdown("")
        self._picture: Any = None
        self._shown: tuple[str, int] | None = None
        self._latest: Path | None = None

    def look(self) -> bool:
        """Show what is new; whether the run is exported, and nothing more will come."""
        stage = stage_told(self._run.folder, read_events(self._run.folder))
        self._told.content = f"**{self._run.config.fine_prompt}**\n\n{stage}"
        self._show_picture()
        self._show_model()
        return stage == "exported"

    def _show_picture(self) -> None:
        found = pictures(self._run.fine) or pictures(self._run.coarse)
        if not found or found[-1] == self._latest:
            return
        self._latest = found[-1]
        with Image.open(self._latest) as grid:
            image = np.array(grid.convert("RGB"))
        if self._picture is not None:
            self._picture.remove()
        self._picture = self._server.gui.add_image(image, label=self._latest.stem)

    def _show_model(self) -> None:
        stage, steps = "fine", steps_on_disk(self._run.fine)
        if not steps:
            stage, steps = "coarse", steps_on_disk(self._run.coarse)
        if not steps or (stage, steps[-1]) == self._shown:
            return
        try:
            if stage == "coarse":
                points, colors = nerf_points(self._run, steps[-1])
                self._server.scene.add_point_cloud(
                    "/model", points, colors, point_size=2.0 * EXTENT / CELLS
                )
            else:
                import trimesh

                (vertices, colors), faces = fine_mesh(self._run, steps[-1])
                rgba = (np.c_[colors, np.ones(len(colors))] * 255).astype(np.uint8)
                mesh = trimesh.Trimesh(vertices, faces, vertex_colors=rgba, process=False)
                self._server.scene.add_mesh_trimesh("/model", mesh)
        except (DamagedCheckpointError, OSError):
            return  # it has just been replaced by a newer one
        self._shown = (stage, steps[-1])


def follow(folder: str, host: str = LOOPBACK, port: int = PORT, seconds: float = 1.0) -> None:
    """Serve the page of a run until Ctrl-C. Raises UserError without viser."""
    run = open_run(folder)
    try:
        import viser
    except ImportError:
        raise UserError(
            "view --live needs viser, which isn't installed: pip install 'maquette[view]'"
        ) from None
    port = free_port(host, port)
    server = viser.ViserServer(host=host, port=port, verbose=False)
    say(f"following {run.folder} at {told_listening(host, port)}; Ctrl-C ends it", important=True)
    follower, ended = Follower(run, server), False
    try:
        while True:
            if not ended:
                ended = follower.look()
            time.sleep(seconds)
    except KeyboardInterrupt:
        server.stop()

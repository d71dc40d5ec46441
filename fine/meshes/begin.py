"""A run that begins with a mesh of the user's: checked first, created after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ...common.config.export import Axis
from ...common.config.mesh import MeshConfig
from ...common.config.models import RunConfig
from ...common.errors import UserError
from ...common.files import expanded
from ...common.runs.checkpoints import DamagedCheckpointError, read_tensors, write_tensors
from ...common.runs.folder import Run
from ...common.runs.whole_folder import digest_of
from ..first_shape import FirstShape
from ..tetgrid import TetGrid
from .data import Material, UserMesh
from .read import read_mesh
from .start import Start, color_field, signed_distances, start_of

FILE = "mesh.safetensors"
"""The mesh as it was read, in the run's folder: a run needs nothing from elsewhere."""


def look_at(told: Mapping[str, object]) -> tuple[UserMesh, dict[str, object]]:
    """Read the mesh that settings tell of, and complete them with its place and what it hashes to.

    Raises UserError, before a folder is made, for whatever is wrong with it.
    """
    path = expanded(str(told["file"]), "mesh")
    source = read_mesh(path)
    full = {**told, "file": str(path.resolve()), "digest": digest_of(path)}
    config = MeshConfig.model_validate(full)
    start_of(source, config.up, config.front)
    return source, full


def adopt(run: Run, source: UserMesh) -> None:
    """Write the mesh into the run's folder, unless that was done before."""
    if not (run.folder / FILE).is_file():
        _write(run, source)


def read_start(run: Run) -> Start:
    """The mesh that a run begins with; UserError if it is damaged, and its file has changed."""
    config = run.config.mesh
    assert config is not None
    try:
        source = _from_tensors(read_tensors(run.folder / FILE))
    except DamagedCheckpointError as error:
        path = Path(config.file)
        if not path.is_file() or digest_of(path) != config.digest:
            raise UserError(
                f"{run.folder / FILE} is damaged ({error}), and {path} isn't the mesh any "
                "more that the run began with; put that back, or begin anew"
            ) from None
        source = read_mesh(path)
        _write(run, source)
    return start_of(source, config.up, config.front)


def shape_of(config: RunConfig, start: Start, grid: TetGrid) -> FirstShape:
    """The first shape of a mesh: its distances or itself, and its colours as a field."""
    assert config.mesh is not None
    field = config.coarse.field
    color = color_field(start, field.grid, field.hidden, config.seed)
    background = torch.tensor(config.coarse.background.color)
    if config.mesh.keep:
        return FirstShape(torch.zeros(0), color, background, kept=start.outward)
    distance = signed_distances(start.outward, grid)
    if not bool((distance < 0.0).any()):
        raise UserError(
            f"{config.mesh.file} has no inside that a grid of {grid.resolution} cells can hold; "
            "try a larger --set fine.geometry.resolution"
        )
    return FirstShape(distance, color, background)


def _write(run: Run, source: UserMesh) -> None:
    tensors = {"vertices": source.vertices, "faces": source.faces}
    for name in ("uv", "material_of", "colors"):
        if (values := getattr(source, name)) is not None:
            tensors[name] = values
    tensors["palette"] = np.array([m.color for m in source.materials], dtype=np.float64)
    for index, material in enumerate(source.materials):
        if material.texture is not None:
            tensors[f"texture/{index}"] = material.texture
    tensors["metre"] = np.array([source.metre or 0.0])
    tensors["up"] = np.array(["yz".index(source.up)])
    words = "\n".join(source.lost).encode()
    tensors["lost"] = np.frombuffer(words, dtype=np.uint8).copy()
    write_tensors(run.folder / FILE, {k: torch.from_numpy(v) for k, v in tensors.items()})


def _from_tensors(tensors: dict[str, torch.Tensor]) -> UserMesh:
    arrays = {name: value.numpy() for name, value in tensors.items()}
    materials = [
        Material((r, g, b), arrays.get(f"texture/{index}"))
        for index, (r, g, b) in enumerate(arrays["palette"].tolist())
    ]
    words = arrays["lost"].tobytes().decode()
    up: Axis = "yz"[int(arrays["up"][0])]  # type: ignore[assignment]
    return UserMesh(
        arrays["vertices"],
        arrays["faces"],
        up,
        uv=arrays.get("uv"),
        materials=materials,
        material_of=arrays.get("material_of"),
        colors=arrays.get("colors"),
        metre=float(arrays["metre"][0]) or None,
        lost=words.split("\n") if words else [],
    )

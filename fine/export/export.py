"""The whole export: from a mesh and a field of colours to files, read back and compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ...common.files import write_whole
from ...common.scene.images import png_bytes
from ...common.scene.mesh import Mesh
from .bake import AlbedoFn, bake
from .clean import clean, decimate
from .readback import compare, read_obj, turntable
from .unwrap import unwrap
from .write import write_glb, write_obj


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how near it is to the model.

    faces_in, faces_clean, faces_out: before, after cleaning, after decimation; vertices_out: of
    the surface without seams. unwrap_method: "xatlas" or "fallback"; unwrap_reason: why it was not
    xatlas, or "". psnr: dB, a value a view; psnr_mean, psnr_min: their mean and the worst.
    seconds: by step.
    """

    obj: Path
    mtl: Path
    texture: Path
    glb: Path
    turntable: Path
    faces_in: int
    faces_clean: int
    faces_out: int
    vertices_out: int
    texture_size: int
    unwrap_method: str
    unwrap_reason: str
    psnr: list[float]
    psnr_mean: float
    psnr_min: float
    seconds: dict[str, float]

    def to_json(self) -> str:
        """The report as JSON; files by their names, since a run's folder may be moved."""
        return json.dumps(asdict(self), indent=2, default=lambda path: path.name) + "\n"


@dataclass
class _Clock:
    """Tells of each step as it begins, and keeps its seconds."""

    tell: Callable[[str], None] | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if self.tell is not None:
            self.tell(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def export(
    mesh: Mesh,
    albedo_fn: AlbedoFn,
    folder: Path,
    name: str,
    faces: int = 50_000,
    texture_size: int = 2048,
    unwrap_limit_s: float = 45.0,
    speck_share: float = 0.01,
    reference: Mesh | None = None,
    on_step: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a model: clean, decimate, unwrap, bake, write, read back, compare.

    mesh: world axes, any device; `albedo_fn` is called with world points `[N, 3]` on that device
    and gives sRGB albedo `[N, 3]` in [0, 1]. folder: is made if it is missing. name: any text, see
    `write_obj`. faces: at most about so many. texture_size: texels a side. unwrap_limit_s: for
    xatlas. speck_share: parts with less of the surface are dropped. reference: what the files are
    compared with; by default the cleaned mesh before decimation. on_step: is told each step's name.

    Writes OBJ, MTL, PNG, GLB, turntable.png and report.json. On the CPU two exports of the same
    model give the same files, unless xatlas meets its time limit in one of them only.
    Raises ValueError if the mesh is empty or consists of specks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = mesh.vertices.device
    clock = _Clock(on_step)
    with clock.step("clean"):
        cleaned = clean(mesh, speck_share)
    with clock.step("decimate"):
        small = decimate(cleaned, faces)
    with clock.step("unwrap"):
        unwrapped = unwrap(small, unwrap_limit_s, texture_size)
    with clock.step("bake"):
        baked = bake(unwrapped, texture_size, albedo_fn, device)
    with clock.step("write"):
        png = png_bytes(torch.from_numpy(baked.texture))
        files = write_obj(folder, name, unwrapped, png)
        glb = write_glb(folder, name, unwrapped, png)
    with clock.step("read back"):
        read = read_obj(files.obj)
        values = compare(read, (reference or cleaned).to(device), albedo_fn)
    with clock.step("turntable"):
        picture = folder / "turntable.png"
        write_whole(picture, png_bytes(torch.from_numpy(turntable(read))))
    report = ExportReport(
        obj=files.obj,
        mtl=files.mtl,
        texture=files.texture,
        glb=glb,
        turntable=picture,
        faces_in=mesh.faces.shape[0],
        faces_clean=cleaned.faces.shape[0],
        faces_out=small.faces.shape[0],
        vertices_out=unwrapped.welded().vertices.shape[0],
        texture_size=texture_size,
        unwrap_method=unwrapped.method,
        unwrap_reason=unwrapped.reason,
        psnr=[round(value, 2) for value in values],
        psnr_mean=round(sum(values) / len(values), 2),
        psnr_min=round(min(values), 2),
        seconds=clock.seconds,
    )
    write_whole(folder / "report.json", report.to_json())
    return report

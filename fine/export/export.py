"""The whole export: from a mesh and a field of colours to files, read back and compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...common.config.export import ExportConfig, Format
from ...common.files import write_whole
from ...common.runs.folder import slug
from ...common.runs.whole_folder import digests
from ...common.scene.images import png_bytes
from ...common.scene.mesh import Mesh
from ..material import Finish
from .bake import CHUNK, AlbedoFn, bake
from .budget import ERROR_SHARE, decimated_by_shape
from .clean import cleaned, decimate, without_inner_parts
from .creases import creased
from .finish import bake_bent, bake_finish, check_finish, write_loose
from .levels import levels_of_detail
from .normals import flipped, tangents
from .order import cache_misses, in_cache_order
from .pictures import encoded, large_images
from .placement import MILLIMETRES, Pose, formats_of, placed, target_of
from .readback import TexturedMesh, check_file, compare, read_obj, turntable
from .seams import AtlasReport, describe_atlas, texture_psnr
from .shape import ShapeReport, describe_shape
from .slivers import without_slivers
from .solids import Solid, write_3mf, write_ply, write_stl
from .source import Surface
from .unwrap import Unwrapped, unwrap
from .usdz import require_usd, write_usdz
from .write import write_glb, write_obj

REACH_SHARE = 0.02  # of the diagonal: how far a texel's point may lie from the undecimated surface
MIXED = 0.01  # of the surface coloured from more than one chart: more is told
REPORT = "report.json"
PLAIN_POSE = Pose()


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how near it is to the model.

    obj, mtl, texture, glb: None where the format wasn't asked for. levels: faces of each level of
    detail. faces_in, faces_clean, faces_out: before, after cleaning, after decimation;
    faces_asked: the most that were wanted, if anything was said. vertices_out: of the surface
    without seams. dropped: shares of the surface of parts that were too small. unwrap_method:
    "xatlas", "fallback", or "own" for texture coordinates that the mesh came with; unwrap_reason:
    why it was not xatlas, or "". size: along the axes of each format. psnr: dB, a value a view, of
    the first textured file (or of the model as it was baked, where none was asked for); psnr_mean,
    psnr_min: their mean and the worst. level_psnr: of each mip level of the texture. cache_misses:
    a face, see `order.cache_misses`. bytes: of each file. seconds: by step. notes: what was asked
    for and could not be, and what was done instead. digests: of each file. made_of: the mark that
    was given. failures: of the run on its way, oldest first. fronts: how many fronts the model has
    after each stage, as its prior has it.
    """

    obj: Path | None
    mtl: Path | None
    texture: Path | None
    glb: Path | None
    turntable: Path
    formats: list[str]
    faces_asked: int | None
    faces_in: int
    faces_clean: int
    faces_out: int
    levels: list[int]
    vertices_out: int
    dropped: list[float]
    texture_size: int
    unwrap_method: str
    unwrap_reason: str
    shape: ShapeReport
    atlas: AtlasReport
    size: dict[str, list[float]]
    psnr: list[float]
    psnr_mean: float
    psnr_min: float
    level_psnr: list[float]
    cache_misses: float
    bytes: dict[str, int]
    seconds: dict[str, float]
    notes: list[str]
    digests: dict[str, str]
    made_of: str = ""
    failures: list[str] = field(default_factory=list)
    fronts: dict[str, str] = field(default_factory=dict)

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


@dataclass(frozen=True)
class _Model:
    """A mesh on its way: whole before decimation, small after it, unwrapped, and its texture."""

    whole: Mesh
    small: Mesh
    unwrapped: Unwrapped
    texture: NDArray[np.uint8]
    colors: AlbedoFn
    """The field, at the nearest points of the undecimated surface."""
    normal_map: NDArray[np.uint8] | None
    finish: NDArray[np.uint8] | None
    """Roughness and metallic, for materials that have them."""


def export(
    mesh: Mesh,
    albedo_fn: AlbedoFn,
    folder: Path,
    name: str,
    faces: int | None = None,
    texture_size: int = 2048,
    unwrap_limit_s: float = 45.0,
    speck_share: float = 0.01,
    reference: Mesh | None = None,
    on_step: Callable[[str], None] | None = None,
    config: ExportConfig | None = None,
    pose: Pose = PLAIN_POSE,
    kept: Unwrapped | None = None,
    made_of: str = "",
    notes: Sequence[str] = (),
    finish: Finish | None = None,
    failures: Sequence[str] = (),
    fronts: Mapping[str, str] | None = None,
) -> ExportReport:
    """Export a model: clean, decimate, unwrap, bake, write, read back, compare.

    mesh: world axes, any device; `albedo_fn` is called with world points `[N, 3]` on that device
    and gives sRGB albedo `[N, 3]` in [0, 1]. folder: is made if it is missing. name: any text, see
    `write_obj`. faces: at most about so many; None is as few as keep the shape. texture_size:
    texels a side. unwrap_limit_s: for xatlas. speck_share: parts with less of the surface are
    dropped. config: all of these and more, in their place. reference: what the files are compared
    with; by default the cleaned mesh before decimation. on_step: is told each step's name. pose:
    how the world's axes become the files'. kept: a mesh whose geometry and texture coordinates stay
    as they are; then nothing is cleaned, decimated or unwrapped. made_of, notes, failures, fronts:
    what the report keeps beside its own. finish: what the material has beside its albedo, at the
    same points.

    Writes the files of each format, turntable.png and report.json, which is the last. On the CPU
    two exports of the same model give the same files, unless xatlas meets its time limit in one of
    them only. Raises ValueError if the mesh is empty, and OSError if a file cannot be read back.
    """
    given = config or ExportConfig.model_construct(
        faces=faces,
        texture_size=texture_size,
        unwrap_limit=unwrap_limit_s,
        speck_share=speck_share,
    )
    kinds = formats_of(given)
    if "usdz" in kinds:
        require_usd()
    folder.mkdir(parents=True, exist_ok=True)
    name = slug(name)
    device = mesh.vertices.device
    clock, notes = _Clock(on_step), list(notes)
    model, dropped = _prepared(mesh, albedo_fn, finish, given, kept, clock, notes)
    with clock.step("levels"):
        coarser = levels_of_detail(model.unwrapped, given.lods, notes)
        ordered = (in_cache_order(_with_hard_edges(level, given)) for level in coarser)
        levels = [model.unwrapped, *ordered]
    with clock.step("write"):
        files, poses = _written(folder, name, levels, model, given, kinds, pose, notes)
    with clock.step("read back"), large_images(given.texture_size**2):
        read = _read_back(files, levels, model, kinds, poses)
        values = compare(read, (reference or model.whole).to(device), albedo_fn)
        told = describe_atlas(model.unwrapped, given.texture_size)
        level_psnr = texture_psnr(model.unwrapped, model.texture, model.colors)
        notes += _told_of_texels(told, given.texture_size)
    with clock.step("turntable"):
        picture = folder / "turntable.png"
        write_whole(picture, png_bytes(torch.from_numpy(turntable(read))))
    named = {path.suffix.removeprefix("."): path for path in files.values() if path is not None}
    own = sorted({*(path.name for path in files.values()), picture.name})
    report = ExportReport(
        obj=named.get("obj"),
        mtl=named.get("mtl"),
        texture=files.get("texture"),
        glb=files.get("glb"),
        turntable=picture,
        formats=list(kinds),
        faces_asked=given.faces if kept is None else None,
        faces_in=mesh.faces.shape[0],
        faces_clean=model.whole.faces.shape[0],
        faces_out=model.unwrapped.faces.shape[0],
        levels=[level.faces.shape[0] for level in levels],
        vertices_out=model.unwrapped.welded().vertices.shape[0],
        dropped=[round(share, 6) for share in dropped],
        texture_size=given.texture_size,
        unwrap_method=model.unwrapped.method,
        unwrap_reason=model.unwrapped.reason,
        shape=describe_shape(model.small),
        atlas=told,
        size={kind: _extent(poses[kind], model.small.vertices) for kind in kinds},
        psnr=[round(value, 2) for value in values],
        psnr_mean=round(sum(values) / len(values), 2),
        psnr_min=round(min(values), 2),
        level_psnr=level_psnr,
        cache_misses=round(cache_misses(model.unwrapped.faces.numpy()), 3),
        bytes={name: (folder / name).stat().st_size for name in own},
        seconds=clock.seconds,
        notes=notes,
        digests=digests(folder, own),
        made_of=made_of,
        failures=list(failures),
        fronts=dict(fronts or {}),
    )
    write_whole(folder / REPORT, report.to_json())
    return report


def _prepared(
    mesh: Mesh,
    albedo_fn: AlbedoFn,
    finish: Finish | None,
    config: ExportConfig,
    kept: Unwrapped | None,
    clock: _Clock,
    notes: list[str],
) -> tuple[_Model, tuple[float, ...]]:
    """The model cleaned, decimated, unwrapped and baked; and the specks that were dropped."""
    device = mesh.vertices.device
    dropped: tuple[float, ...] = ()
    with clock.step("clean"):
        whole = mesh.detach().to("cpu")
        if kept is None:
            found = cleaned(mesh, config.speck_share)
            whole, dropped = found.mesh, found.dropped
            notes += _told_of_specks(dropped)
    with clock.step("decimate"):
        if kept is not None:
            small = whole
        elif config.faces is None:
            small = decimated_by_shape(whole)
        else:
            small = decimate(whole, config.faces)
            notes += _told_of_faces(config.faces, whole, small)
        if kept is None:
            diagonal = float(np.linalg.norm(np.ptp(whole.vertices.numpy(), axis=0)))
            small = without_slivers(small, ERROR_SHARE * diagonal)
    with clock.step("unwrap"):
        unwrapped = kept or unwrap(small, config.unwrap_limit, config.texture_size)
        unwrapped = _with_hard_edges(unwrapped, config)
        if kept is None:
            unwrapped = in_cache_order(unwrapped)
    with clock.step("bake"):
        surface = None
        if kept is None:
            reach = REACH_SHARE * float(np.linalg.norm(np.ptp(whole.vertices.numpy(), axis=0)))
            surface = Surface(whole, reach)
        texture = bake(unwrapped, config.texture_size, albedo_fn, device, surface).texture
        size = config.texture_size
        finished = None if finish is None else bake_finish(unwrapped, size, finish, device, surface)
        normal_map = None
        if config.normal_map or (finish is not None and finish.bend is not None):
            normal_map = bake_bent(unwrapped, size, surface, finish, device)
        if config.normal_map and normal_map is None:
            notes.append("no normal map: the faces are the model's own, so that it would be flat")

    @torch.no_grad()
    def colors(points: Tensor) -> Tensor:
        if surface is not None:
            nowhere = np.zeros((len(points), 3))
            moved = surface.beneath(points.double().numpy(), nowhere, any_side=True)[0]
            points = torch.from_numpy(moved).float()
        parts = [albedo_fn(part.to(device)).float().cpu() for part in points.split(CHUNK)]
        return torch.cat(parts).clamp(0.0, 1.0)

    return _Model(whole, small, unwrapped, texture, colors, normal_map, finished), dropped


def _written(
    folder: Path,
    name: str,
    levels: list[Unwrapped],
    model: _Model,
    config: ExportConfig,
    kinds: list[Format],
    pose: Pose,
    notes: list[str],
) -> tuple[dict[str, Path], dict[Format, Pose]]:
    """Write every format: the files by what they are, and where the model lies in each."""
    image = encoded(model.texture, config.texture_format, config.quality)
    inside = image
    if {"glb", "usdz"} & set(kinds):
        inside = _smaller(model.texture, config.quality)
    files: dict[str, Path] = {}
    poses: dict[Format, Pose] = {
        kind: placed(kind, config, pose, model.small.vertices) for kind in kinds
    }
    solid = _solid(model, prints=False) if "ply" in kinds else None
    printed = None
    if set(MILLIMETRES) & set(kinds):
        printed = _solid(model, prints=True, notes=notes)
    mapped: list[tuple[bytes | None, Tensor | None]] = [(None, None)] * len(levels)
    if model.normal_map is not None:
        # Inside a GLB green is up, whoever reads it; the loose file is as the target wants it.
        mapped[0] = (encoded(model.normal_map, "png"), tangents(levels[0]))
        up = target_of(config).green > 0
        loose = model.normal_map if up else flipped(model.normal_map)
        files["normal map"] = folder / f"{name}-normal.png"
        write_whole(files["normal map"], encoded(loose, "png"))
    finish, finish_lines = None, ""
    if model.finish is not None:
        finish = _smaller(model.finish, config.quality) if {"glb", "usdz"} & set(kinds) else None
        if "obj" in kinds:
            maps = write_loose(folder, name, model.finish)
            files |= {"roughness": maps.roughness, "metallic": maps.metallic}
            finish_lines = maps.lines()
    for kind in kinds:
        own = poses[kind]
        for index, level in enumerate(levels):
            label = name if index == 0 else f"{name}-lod{index}"
            key = kind if index == 0 else f"{kind} {index}"
            match kind:
                case "obj":
                    out = write_obj(
                        folder, label, level, image, own, files.get("texture"), finish_lines
                    )
                    files |= {key: out.obj, f"mtl {index}": out.mtl, "texture": out.texture}
                case "glb":
                    files[key] = write_glb(
                        folder, label, level, inside, own, *mapped[index], finish
                    )
                case "usdz":
                    files[key] = write_usdz(folder, label, level, inside, own, finish)
                case "ply" if index == 0 and solid is not None:
                    files[key] = write_ply(folder, label, solid, own)
                case "stl" if index == 0 and printed is not None:
                    files[key] = write_stl(folder, label, printed, own)
                case "3mf" if index == 0 and printed is not None:
                    files[key] = write_3mf(folder, label, printed, own)
                case _:
                    pass
    return files, poses


def _smaller(texture: NDArray[np.uint8], quality: int) -> bytes:
    """A texture as PNG or JPEG, whichever is fewer bytes: every reader takes both."""
    return min((encoded(texture, kind, quality) for kind in ("png", "jpeg")), key=len)


def _solid(model: _Model, prints: bool, notes: list[str] | None = None) -> Solid:
    """The surface without seams and its vertices' colours; without inner parts for printers."""
    mesh = model.unwrapped.welded()
    if prints:
        mesh, inner = without_inner_parts(mesh)
        if inner and notes is not None:
            notes.append(f"left out of the print: {inner} parts that lie within others")
        shape = describe_shape(mesh)
        if not (shape.closed and shape.manifold) and notes is not None:
            notes.append(
                f"the surface has {shape.border_edges} open edges and {shape.crowded_edges} where "
                "more than two faces meet; a slicer has to mend that"
            )
    colors = (model.colors(mesh.vertices) * 255.0).round().to(torch.uint8)
    return Solid(mesh, colors)


def _read_back(
    files: dict[str, Path],
    levels: list[Unwrapped],
    model: _Model,
    kinds: list[Format],
    poses: dict[Format, Pose],
) -> TexturedMesh:
    """Read every file; the first textured one, or the model as it was baked if there is none."""
    for key, path in files.items():
        kind = path.suffix.removeprefix(".")
        if kind in poses:
            expected = levels[int(key.partition(" ")[2] or 0)].welded()
            if kind in MILLIMETRES:
                expected = without_inner_parts(expected)[0]
            check_file(path, poses[kind], expected, model.texture)
            if model.finish is not None:
                check_finish(path, model.finish)
    for kind in kinds:
        if kind in ("obj", "glb"):
            return read_obj(files[kind], poses[kind])
    unwrapped = model.unwrapped
    return TexturedMesh(
        unwrapped.vertices,
        unwrapped.faces,
        unwrapped.uv,
        unwrapped.normals(),
        torch.from_numpy(model.texture),
    )


def _with_hard_edges(unwrapped: Unwrapped, config: ExportConfig) -> Unwrapped:
    return unwrapped if config.smooth else creased(unwrapped, config.hard_angle)


def _extent(pose: Pose, vertices: Tensor) -> list[float]:
    points = pose.points(vertices).double()
    return [float(f"{x:.6g}") for x in (points.amax(dim=0) - points.amin(dim=0)).tolist()]


def _told_of_specks(dropped: tuple[float, ...]) -> list[str]:
    if not dropped:
        return []
    return [
        f"dropped {len(dropped)} small parts (the largest has {dropped[0]:.2%} of the surface); "
        "--keep-all keeps them"
    ]


def _told_of_texels(atlas: AtlasReport, size: int) -> list[str]:
    """What is said where a texture has too few texels to keep its charts apart."""
    if not atlas.mixed or atlas.mixed[0] <= MIXED:
        return []
    return [
        f"{size} px are too few for {atlas.charts} charts: {atlas.mixed[0]:.0%} of the surface "
        "takes colours of another one; a larger --texture-size keeps them apart"
    ]


def _told_of_faces(asked: int, whole: Mesh, small: Mesh) -> list[str]:
    """What is said where the faces that were asked for can't be had."""
    got, had = small.faces.shape[0], whole.faces.shape[0]
    if got > asked:
        return [
            f"asked for {asked} faces: {got} is the fewest that keep the shape's topology and "
            "borders"
        ]
    if had < asked:
        return [f"asked for {asked} faces: the model has {had}, and all are written"]
    return []

"""What the networks learn from: views of toys, rendered when they are needed, with their captions.

Batch number i of a training is a function of the seed and i alone. So nothing about the data needs
to be kept in a checkpoint, any process can render any batch, and a training that goes on sees what
it would have seen. Captions that are held out are never drawn, except for evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...priors.camera_features import BUFFER, told_inputs
from ...scene.cameras import Cameras, window_matrix
from ...scene.view_words import view_phrase
from ...toybox.grammar import CATEGORIES, COLORS, PATTERNS, Caption
from ...toybox.objects import ToyObject, build
from ...toybox.patterns import Pattern
from ...toybox.studio import BACKDROP, WHITE, Color, photograph, surface_views
from ..vocabulary import is_held_out, token_ids
from .settings import TrainConfig

DISTANCE = 3.0
REFERENCE_ELEVATION = (-20.0, 60.0)
"""Degrees between which reference images are taken, from any azimuth."""
VIEWS_OF_TOY = 2  # a toy is put up once for two pictures
SECOND = (0.2, 0.5)
"""Shares of the captions that name a second colour: of those without a pattern, with one."""


class Batch(NamedTuple):
    """N pictures and what the network is told of each.

    images: uint8 `[N, H, W, 3]`. ids: the tokens of the texts, int64 `[N, 16]`.
    poses: float32 `[N, 8]`; see `Poses`. references: uint8 `[M, H, W, 3]`, the reference images of
    the M rows whose pose has one, in order. surfaces: float16 `[N, BUFFER, h, w]`, what is told of
    the toy's surface at the network's resolution, zeros where it isn't told. Neither for
    autoencoders.
    """

    images: Tensor
    ids: Tensor
    poses: Tensor
    references: Tensor
    surfaces: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def unit(self) -> Tensor:
        """The images as a network sees them: float32 `[N, 3, H, W]` in [-1, 1]."""
        return unit(self.images)


def unit(images: Tensor) -> Tensor:
    """From uint8 `[N, H, W, 3]` to float32 `[N, 3, H, W]` in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


class Poses(NamedTuple):
    """What a network is told of where N views were taken from, and what of it; each `[N]`.

    Angles in radians, of the view and of its reference image. told: 1 where the view's camera is
    told, else 0; related: where it is told relative to the reference's; pictured: where there is a
    reference image at all.
    """

    azimuth: Tensor
    elevation: Tensor
    fovy: Tensor
    reference_azimuth: Tensor
    reference_elevation: Tensor
    told: Tensor
    related: Tensor
    pictured: Tensor

    @staticmethod
    def of(table: Tensor) -> Poses:
        """From the columns of a table `[N, 8]`."""
        return Poses(*table.unbind(dim=-1))

    def inputs(self, surface: Tensor) -> tuple[Tensor, Tensor]:
        """Class labels and maps of the surfaces `[N, BUFFER, h, w]`; see `told_inputs`."""
        distance = torch.full_like(self.azimuth, DISTANCE)
        view = Cameras(self.azimuth, self.elevation, distance, self.fovy)
        reference = Cameras(self.reference_azimuth, self.reference_elevation, distance, self.fovy)
        return told_inputs(surface, view, self.told, view, reference, self.related)


@dataclass(frozen=True)
class View:
    """One picture before it is taken; angles in radians."""

    caption: Caption
    instance: int
    azimuth: float
    elevation: float
    fovy: float
    reference: tuple[float, float] | None = None
    """Azimuth and elevation of the camera of a reference image, if there is one."""


@dataclass(frozen=True)
class Told:
    """What a network is told of a view: a text, its camera, where it lies from the reference's, and
    the surface it shows."""

    text: str
    camera: bool
    relation: bool = False
    surface: bool = False

    def pose(self, view: View) -> list[float]:
        """A row of `Poses`."""
        reference = view.reference or (0.0, 0.0)
        flags = (self.camera, self.relation, view.reference is not None)
        return [view.azimuth, view.elevation, view.fovy, *reference, *map(float, flags)]


def draw_caption(
    rng: np.random.Generator, held_out: bool = False, patterned: float = 0.5
) -> Caption:
    """A caption at random: of those that training may show, or of those it may not.

    patterned: the share of captions that name a pattern.
    """
    while True:
        caption = _any_caption(rng, patterned)
        if is_held_out(caption) == held_out:
            return caption


def _any_caption(rng: np.random.Generator, patterned: float) -> Caption:
    category = CATEGORIES[rng.integers(len(CATEGORIES))]
    first, second = rng.choice(len(COLORS), size=2, replace=False)
    names = list(COLORS)
    shares = [
        whole * part
        for whole, named in zip((1.0 - patterned, patterned), SECOND, strict=True)
        for part in (1.0 - named, named)
    ]
    kind = rng.choice(len(shares), p=shares)  # plain, with a second colour, a pattern, with both
    pattern = PATTERNS[rng.integers(len(PATTERNS))] if kind >= 2 else None
    return Caption(category, names[first], names[second] if kind % 2 else None, pattern)


def draw_views(
    config: TrainConfig, count: int, rng: np.random.Generator, held_out: bool
) -> list[View]:
    """`count` views, `VIEWS_OF_TOY` of each toy, from all over the sphere."""
    views: list[View] = []
    while len(views) < count:
        caption = draw_caption(rng, held_out, config.patterned_share)
        pictured = config.kind != "vae" and rng.random() < config.reference_share
        canonical = config.reference_canonical_share if pictured else config.canonical_share
        varied = config.instances > 0 and rng.random() >= canonical
        instance = int(rng.integers(1, config.instances + 1)) if varied else 0
        for _ in range(min(VIEWS_OF_TOY, count - len(views))):
            azimuth, height = rng.uniform(-math.pi, math.pi), rng.uniform(-1.0, 1.0)
            fovy = math.radians(rng.uniform(*config.fovy))
            reference = draw_reference(rng) if pictured else None
            views.append(View(caption, instance, azimuth, math.asin(height), fovy, reference))
    return views


def draw_reference(rng: np.random.Generator) -> tuple[float, float]:
    """Azimuth and elevation (radians) of the camera of a reference image."""
    low, high = REFERENCE_ELEVATION
    return rng.uniform(-math.pi, math.pi), math.radians(rng.uniform(low, high))


def draw_told(config: TrainConfig, view: View, rng: np.random.Generator) -> Told:
    """What is told of a view.

    Where no camera is told, the text names the view, as it does for models that can't be told it.
    A view with a reference image is told its own camera seldom, for who has a picture rarely knows
    where the front of what it shows is.
    """
    if view.reference is None:
        camera, relation = rng.random() >= config.camera_dropout, False
        silent = rng.random() < config.caption_dropout
    else:
        camera = rng.random() < config.reference_camera_share
        relation = rng.random() >= config.camera_dropout
        silent = rng.random() < config.reference_caption_dropout
    placed = camera or relation
    named = rng.random() < config.named_views or not placed
    surface = rng.random() < config.surface_share and placed
    if silent:
        return Told("", camera, relation, surface)
    text = view.caption.text
    if named:
        text = f"{text}, {view_phrase(view.azimuth, view.elevation)}"
    return Told(text, camera, relation, surface)


def take_pictures(
    views: list[View],
    resolution: int,
    windows: Tensor | None = None,
    backdrop: Color = BACKDROP,
) -> Tensor:
    """Photographs of views, uint8 `[N, resolution, resolution, 3]`; neighbours share their toy.

    windows: `[N, 4, 4]`, which part of each view is taken; see `scene.cameras.window_matrix`.
    """
    if not views:
        return torch.zeros(0, resolution, resolution, 3, dtype=torch.uint8)
    pictures = []
    for start, stop in _runs_of_one_toy(views):
        toy = make_toy(views[start].caption, views[start].instance)
        part = None if windows is None else windows[start:stop]
        cameras = view_cameras(views[start:stop])
        pictures.append(photograph(toy, cameras, resolution, part, backdrop))
    return (torch.cat(pictures).clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8)


def take_surfaces(views: list[View], resolution: int) -> Tensor:
    """What views see of their toys' surfaces, float16 `[N, BUFFER, resolution, resolution]`."""
    seen = []
    for start, stop in _runs_of_one_toy(views):
        toy = make_toy(views[start].caption, views[start].instance)
        seen.append(surface_views(toy, view_cameras(views[start:stop]), resolution))
    if not seen:
        return torch.zeros(0, BUFFER, resolution, resolution, dtype=torch.float16)
    return torch.cat(seen).permute(0, 3, 1, 2).half()


def _runs_of_one_toy(views: list[View]) -> Iterator[tuple[int, int]]:
    """Where runs of neighbours that show one toy begin and end."""
    start = 0
    while start < len(views):
        stop = start + 1
        while stop < len(views) and _same_toy(views[start], views[stop]):
            stop += 1
        yield start, stop
        start = stop


def take_references(views: list[View], resolution: int) -> Tensor:
    """The reference images of those views that have one, uint8 `[M, resolution, resolution, 3]`."""
    seen = [
        replace(view, azimuth=view.reference[0], elevation=view.reference[1])
        for view in views
        if view.reference is not None
    ]
    return take_pictures(seen, resolution, backdrop=WHITE)


def draw_windows(resolution: int, side: int, count: int, rng: np.random.Generator) -> Tensor:
    """`count` square windows of a view at random places, as matrices `[count, 4, 4]`."""
    corners = rng.integers(0, resolution - side + 1, size=(count, 2)).tolist()
    return torch.stack(
        [window_matrix(resolution, resolution, y, x, side, side) for y, x in corners]
    )


def view_cameras(views: list[View]) -> Cameras:
    """The cameras of views."""
    table = torch.tensor([[v.azimuth, v.elevation, DISTANCE, v.fovy] for v in views])
    azimuth, elevation, distance, fovy = table.T.contiguous()
    return Cameras(azimuth, elevation, distance, fovy)


def make_toy(caption: Caption, instance: int) -> ToyObject:
    """What `build` makes, without throwing the dots of a shape anew for every colour."""
    if caption.pattern != "dotted":
        return build(caption, instance)
    other = build(replace(caption, pattern="striped"), instance)  # paints as dotted toys have them
    return replace(other, caption=caption, pattern=_dots(caption.category, instance))


@lru_cache(maxsize=4096)
def _dots(category: str, instance: int) -> Pattern | None:
    return build(Caption(category, "red", None, "dotted"), instance).pattern


def _same_toy(a: View, b: View) -> bool:
    return a.caption == b.caption and a.instance == b.instance


class Views(Dataset[Batch]):
    """The batches of a training by their number, each rendered when it is asked for."""

    def __init__(self, config: TrainConfig, held_out: bool = False, stream: int = 0) -> None:
        """stream: an independent series of batches of the same seed."""
        self.config, self.held_out, self.stream = config, held_out, stream

    def __getitem__(self, index: int) -> Batch:
        return self.draw(index, self.config.fresh, whole=False)

    def draw(self, index: int, count: int, whole: bool = True) -> Batch:
        """Batch number `index` of `count` pictures; autoencoders get crops if not `whole`."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.stream, index])
        views = draw_views(config, count, rng, self.held_out)
        told = [draw_told(config, view, rng) for view in views]
        if config.kind == "vae" and not whole:
            windows = draw_windows(config.resolution, config.crop, count, rng)
            images = take_pictures(views, config.crop, windows)
        else:
            images = take_pictures(views, config.resolution)
        poses = torch.tensor([t.pose(view) for t, view in zip(told, views, strict=True)])
        ids = torch.tensor([token_ids(t.text) for t in told])
        if config.kind == "vae":
            return Batch(images, ids, poses, take_references([], 1), take_surfaces([], 1))
        references = take_references(views, config.resolution)
        surfaces = torch.zeros(count, BUFFER, config.side, config.side, dtype=torch.float16)
        rows = [row for row, t in enumerate(told) if t.surface]
        surfaces[rows] = take_surfaces([views[row] for row in rows], config.side)
        return Batch(images, ids, poses, references, surfaces)


def batches(views: Views, start: int, workers: int) -> Iterator[Batch]:
    """The batches from number `start` on, without end; by `workers` processes if there are any."""
    loader = DataLoader(
        views,
        batch_size=None,
        sampler=_From(start),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_one_thread if workers else None,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # the loader draws a seed; leave the global state alone
    )
    return cast(Iterator[Batch], iter(loader))


class _From(Iterable[int]):
    """The numbers from `start` on."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __iter__(self) -> Iterator[int]:
        number = self._start
        while True:
            yield number
            number += 1


def _one_thread(worker: int) -> None:
    """Processes share the cores among them, so each takes one."""
    import numba

    torch.set_num_threads(1)
    numba.set_num_threads(1)

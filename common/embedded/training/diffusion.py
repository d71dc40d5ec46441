"""Learning to denoise: the pixel U-Net, and the latent one behind a trained autoencoder."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import UserError
from ...priors.latents import encode_latents, restore_latents
from ...priors.noise import NoiseSchedule, diffusion_schedule
from ...scene.images import strip
from ...scene.view_words import view_phrase
from ...toybox.grammar import Caption
from ..vocabulary import token_ids
from .data import Batch, Poses, Told, View, Views, batches, take_pictures, take_surfaces, unit
from .models import Denoiser, build_scheduler, load_alike, save_denoiser
from .precision import attention, autocast
from .settings import TrainConfig

BANDS = 5
SEEN, HELD_OUT, SHOWN = 1, 2, 3  # streams of batches beside the training's own, and of noise
GUIDANCE = 2.0
SAMPLES: tuple[tuple[Caption, float], ...] = (
    (Caption("mushroom", "red"), 0.4),
    (Caption("chair", "blue"), 0.8),
    (Caption("cat", "orange", "white", "striped"), 0.3),
    (Caption("rocket", "white", "red"), 2.4),
    (Caption("duck", "blue"), 0.5),
    (Caption("truck", "green"), 3.9),
    (Caption("teapot", "red", None, "striped"), 0.6),
    (Caption("robot", "white"), 3.1),
)
"""What the sheets of samples show, with the azimuth: four seen captions, four held-out ones."""


class DiffusionTask:
    """A denoiser learns: what `loop.train` asks of it.

    net, average: the networks in training and their moving average. teacher: the network whose
    answers are kept, if the settings name one.
    """

    def __init__(self, config: TrainConfig, vae: Any | None, device: torch.device) -> None:
        """vae: the trained autoencoder, in evaluation mode; None for the pixel prior."""
        self.config, self.vae, self.device = config, vae, device
        self.net = Denoiser(config).to(device)
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval()
        if config.channels_last:
            self.net.unet.to(memory_format=torch.channels_last)  # pyright: ignore
        if config.compile:
            self.net.unet.compile()
        self.schedule, _ = diffusion_schedule(build_scheduler(clip=vae is None))
        self.memory = Memory(config.memory) if config.reuse > 1 else None
        self.teacher: Denoiser | None = None

    def batches(self, start: int, workers: int) -> Iterator[Batch]:
        """The training's batches from number `start` on."""
        return batches(Views(self.config), start, workers)

    def loss(self, batch: Batch, noise: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared error of the velocity, and its parts by fifths of the noise levels."""
        examples = self._examples(batch, noise)
        t = stratified_timesteps(len(examples.x), len(self.schedule), noise, self.config.noise_skew)
        surface = shaken(examples.surface, self.config.surface_error, noise)
        examples = examples._replace(surface=surface)
        errors = velocity_errors(
            self.net, self.schedule, examples, t, noise, self.config, self.teacher
        )
        weights = snr_weights(self.schedule, t, self.config.snr_cap)
        return (weights * errors).mean(), by_band(errors.detach(), t, len(self.schedule))

    def begin_with(self, folder: Path) -> None:
        """Take over the weights of another denoiser's diffusers folder where shapes agree.

        Raises UserError if none do.
        """
        if not _take_over(self.net, folder):
            raise UserError(f"--begin: no weights in {folder} have the shape of these networks'")
        self.average.load_state_dict(self.net.state_dict())

    def learn_from(self, folder: Path) -> None:
        """Keep the answers of another denoiser where nothing new is told.

        Raises UserError if it is of other shapes.
        """
        teacher = Denoiser(self.config).to(self.device).requires_grad_(False).eval()
        if _take_over(teacher, folder) < len(teacher.state_dict()):
            raise UserError(f"teacher: {folder} is of another network; give one of these widths")
        self.teacher = teacher

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The average's error on views of captions that training shows, and of held-out ones."""
        scores: dict[str, float] = {}
        for name, stream, held_out, share, painted in (
            ("seen", SEEN, False, 0.0, 0.0),
            ("held out", HELD_OUT, True, 0.0, 0.0),
            ("with a reference", HELD_OUT, True, 1.0, 0.0),
            ("told the surface", HELD_OUT, True, 0.0, 1.0),
        ):
            told = {"reference_share": share, "surface_share": painted}
            config = self.config.model_copy(update=told)
            batch = Views(config, held_out, stream).draw(0, config.eval_views).to(self.device)
            noise = torch.Generator(self.device).manual_seed(stream)
            examples = self._clean(batch)
            t = stratified_timesteps(len(examples.x), len(self.schedule), noise)
            errors = velocity_errors(self.average, self.schedule, examples, t, noise, config)
            scores[name] = float(errors.mean())
            bands = by_band(errors, t, len(self.schedule))
            scores |= {f"{name} {band}": float(values.mean()) for band, values in bands.items()}
        return scores

    @torch.no_grad()
    def picture(self) -> Tensor:
        """Samples `[H, W, 3]`: the truth; told the camera; the surface, too; the view in words."""
        views = [View(caption, 0, azimuth, 0.35, 0.66) for caption, azimuth in SAMPLES]
        truth = take_pictures(views, self.config.resolution).float() / 255.0
        texts = [v.caption.text for v in views]
        named = [f"{v.caption.text}, {view_phrase(v.azimuth, v.elevation)}" for v in views]
        rows, surface = [truth], take_surfaces(views, self.config.side).float()
        for lines, told, painted in ((texts, True, 0.0), (texts, True, 1.0), (named, False, 0.0)):
            ids = torch.tensor([token_ids(line) for line in lines])
            poses = torch.tensor([Told("", told).pose(view) for view in views])
            known = (painted * surface).to(self.device)
            x = self.sample(ids.to(self.device), poses.to(self.device), known)
            rows.append(self.decode(x).permute(0, 2, 3, 1).float().cpu() * 0.5 + 0.5)
        sheet = strip(torch.cat(rows), columns=len(views)).clamp(0.0, 1.0)
        return sheet if self.vae is None else sheet[::4, ::4]

    def sample(self, ids: Tensor, poses: Tensor, surface: Tensor) -> Tensor:
        """Clean x `[N, C, h, w]` for token rows, poses and surfaces, by DDIM (Song et al. 2021)."""
        scheduler = build_scheduler(clip=self.vae is None)
        scheduler.set_timesteps(self.config.sample_steps)
        empty = torch.tensor([token_ids("")], device=ids.device).expand_as(ids)
        both, poses = torch.cat([empty, ids]), torch.cat([poses, poses])
        surface = torch.cat([surface, surface])
        noise = torch.Generator(self.device).manual_seed(SHOWN)
        side, channels = self.config.side, self.average.unet.config["out_channels"]
        x = torch.randn(len(ids), channels, side, side, generator=noise, device=self.device)
        for t in scheduler.timesteps:
            times = torch.full((2 * len(ids),), int(t), device=self.device)
            pair = torch.cat([x, x])
            with autocast(self.config, self.device):
                v = self.average(pair, times, both, torch.zeros_like(pair), poses, surface).float()
            without, told = v.chunk(2)
            x = scheduler.step(without + GUIDANCE * (told - without), t, x).prev_sample  # pyright: ignore
        return x

    def encode(self, images: Tensor) -> Tensor:
        """From images `[N, 3, H, W]` in [-1, 1] to the x that is noised."""
        if self.vae is None:
            return images
        with torch.no_grad(), autocast(self.config, self.device):
            return torch.cat([encode_latents(self.vae, part) for part in images.split(2)])

    def decode(self, x: Tensor) -> Tensor:
        """From x to images `[N, 3, H, W]` in [-1, 1]."""
        if self.vae is None:
            return x
        latents = x / self.vae.config.scaling_factor
        with autocast(self.config, self.device):
            return torch.cat([self.vae.decode(part).sample for part in latents.split(2)])

    def export(self, folder: Path) -> None:
        """Write the average as a diffusers pipeline."""
        save_denoiser(self.average.unet, self.average.text, self.vae, folder)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside the networks and the optimizer."""
        return {} if self.memory is None else self.memory.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        if self.memory is not None:
            self.memory.load(tensors, self.device)

    def _clean(self, batch: Batch) -> Examples:
        """A batch's pictures as clean x."""
        x = self.encode(batch.unit())
        reference = torch.zeros_like(x)
        pictured = Poses.of(batch.poses).pictured > 0
        if len(batch.references):
            own = self.encode(unit(batch.references))
            reference[pictured] = own if self.vae is None else restore_latents(own, self.vae.config)
        return Examples(x, batch.ids, batch.poses, reference, batch.surfaces.float())

    def _examples(self, batch: Batch, noise: torch.Generator) -> Examples:
        """What a step learns from: fresh examples, and some from memory."""
        fresh = self._clean(batch)
        if self.memory is None:
            return fresh
        self.memory.add(fresh)
        old = self.memory.draw(self.config.batch - len(fresh.x), noise)
        return Examples(*(torch.cat(pair) for pair in zip(fresh, old, strict=True)))


def _take_over(net: Denoiser, folder: Path) -> int:
    """Copy the weights of a diffusers folder that have their twin in a denoiser; how many did."""
    return load_alike(net.unet, folder / "unet") + load_alike(net.text, folder / "text_encoder")


def velocity_errors(
    net: Denoiser,
    schedule: NoiseSchedule,
    examples: Examples,
    t: Tensor,
    noise: torch.Generator,
    config: TrainConfig,
    teacher: Denoiser | None = None,
) -> Tensor:
    """Squared errors `[B]` of the predicted velocity of examples noised to timesteps `[B]`.

    The target is `v = alpha eps - sigma x` (Salimans and Ho 2022, appendix D); of examples that
    tell neither a surface nor a picture it is what the teacher answers, if there is one.
    """
    x, ids, poses, reference, surface = examples
    eps = torch.randn(x.shape, generator=noise, device=x.device)
    alpha, sigma = schedule.at(t)
    x_t, wanted = alpha * x + sigma * eps, alpha * eps - sigma * x
    with autocast(config, x.device), attention(x.device):
        v = net(x_t, t, ids, reference, poses, surface)
        if teacher is not None:
            bare = (Poses.of(poses).pictured == 0) & ~surface.flatten(1).any(dim=1)
            asked = [part[bare] for part in (x_t, t, ids, reference, poses, surface)]
            if len(asked[0]):
                with torch.no_grad():
                    wanted[bare] = teacher(*asked).float()
    return (v.float() - wanted).square().mean(dim=(1, 2, 3))


def snr_weights(schedule: NoiseSchedule, t: Tensor, cap: float) -> Tensor:
    """Weights `[B]` of the errors at timesteps `[B]`: 1, less where there is little noise.

    Below a signal-to-noise ratio of `cap` the loss is the velocity's own; above it the error of the
    clean x, which is the velocity's times 1/(SNR + 1), counts `cap` times at most: as Min-SNR (Hang
    2023) limits it there, though not at the noisy end, where the toys' shapes are learned.
    """
    alpha, sigma = (level.flatten() for level in schedule.at(t))
    return (cap * sigma**2 / (alpha**2 + sigma**2)).clamp(max=1.0)


def stratified_timesteps(
    count: int, total: int, noise: torch.Generator, skew: float = 0.0
) -> Tensor:
    """Timesteps int64 `[count]`, one from each of `count` parts of [0, total), in any order.

    The parts are equally likely under a density that grows as `t^skew`. Every step then sees all
    noise levels, which takes most of the noise out of its loss.
    """
    device = noise.device
    part = torch.randperm(count, generator=noise, device=device)
    within = torch.rand(count, generator=noise, device=device, dtype=torch.float64)
    share = ((part + within) / count) ** (1.0 / (1.0 + skew))
    return (share * total).long().clamp_max(total - 1)


def by_band(errors: Tensor, t: Tensor, total: int) -> dict[str, Tensor]:
    """Errors `[B]` split by `BANDS` equal ranges of their timesteps."""
    band = t * BANDS // total
    names = [f"t {k / BANDS:.1f}-{(k + 1) / BANDS:.1f}" for k in range(BANDS)]
    return {name: errors[band == k] for k, name in enumerate(names) if bool((band == k).any())}


class Examples(NamedTuple):
    """What a network learns from, B of each.

    x: clean, `[B, C, h, w]`. ids: tokens `[B, 16]`. poses: `[B, 8]`; see `Poses`. reference: clean
    x of the reference images, as the VAE has it (not scaled), `[B, C, h, w]`; zeros for none.
    surface: what is told of the views' surfaces, `[B, BUFFER, h, w]`; zeros for nothing.
    """

    x: Tensor
    ids: Tensor
    poses: Tensor
    reference: Tensor
    surface: Tensor


def shaken(surface: Tensor, error: float, noise: torch.Generator) -> Tensor:
    """Surfaces `[B, BUFFER, h, w]` as a scene that isn't quite right would show them.

    Points move by smooth waves of at most `error` (world units), by another share of it a view, and
    normals lean by as much as a surface with such waves would. Silhouettes stay: what is painted is
    the surface that is told.
    """
    batch, device = len(surface), surface.device

    def waves(points: Tensor, frequency: float) -> Tensor:
        ways = torch.rand(batch, 3, 3, generator=noise, device=device) - 0.5
        phases = torch.rand(batch, 3, generator=noise, device=device)[:, :, None, None]
        turns = torch.einsum("bij,bjhw->bihw", 2.0 * frequency * ways, points)
        return (turns + 2.0 * torch.pi * phases).sin()

    covered, normals, points = surface[:, :1], surface[:, 1:4], surface[:, 4:]
    share = error * torch.rand(batch, 1, 1, 1, generator=noise, device=device)
    moved = points + share * waves(points, 6.0)
    leaning = torch.nn.functional.normalize(normals + 6.0 * share * waves(points, 30.0), dim=1)
    return torch.cat([covered, covered * leaning, covered * moved], dim=1)


class Memory:
    """The last views that were rendered and encoded, to be learned from more than once.

    Rendering and encoding a view at 512 px costs as much as a step of the latent U-Net on it.
    """

    _KEPT = (torch.float16, torch.int64, torch.float32, torch.float16, torch.float16)

    def __init__(self, capacity: int) -> None:
        self.capacity, self._rows, self._filled, self._cursor = capacity, None, 0, 0
        self._rows: Examples | None

    def add(self, examples: Examples) -> None:
        """Keep examples, in place of the oldest; images are kept in half precision."""
        if self._rows is None:
            self._rows = Examples(
                *(
                    v.new_zeros((self.capacity, *v.shape[1:]), dtype=kind)
                    for v, kind in zip(examples, self._KEPT, strict=True)
                )
            )
        count = len(examples.x)
        place = (self._cursor + torch.arange(count, device=examples.x.device)) % self.capacity
        for rows, values in zip(self._rows, examples, strict=True):
            rows[place] = values.to(rows.dtype)
        self._cursor = (self._cursor + count) % self.capacity
        self._filled = min(self.capacity, self._filled + count)

    def draw(self, count: int, noise: torch.Generator) -> Examples:
        """`count` of the examples kept, drawn evenly with replacement."""
        if self._rows is None:
            raise ValueError("draw: nothing was added yet")
        rows = torch.randint(self._filled, (count,), generator=noise, device=noise.device)
        x, ids, poses, reference, surface = (kept[rows] for kept in self._rows)
        return Examples(x.float(), ids, poses, reference.float(), surface.float())

    def tensors(self) -> dict[str, Tensor]:
        """The state for a checkpoint."""
        if self._rows is None:
            return {}
        kept = {
            f"memory/{name}": rows[: self._filled] for name, rows in self._rows._asdict().items()
        }
        return kept | {"memory/cursor": torch.tensor(self._cursor)}

    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Put back what `tensors` gave."""
        if "memory/cursor" not in tensors:
            return
        self._rows, self._filled, self._cursor = None, 0, 0
        self.add(Examples(*(tensors[f"memory/{n}"].to(device) for n in Examples._fields)))
        self._cursor = int(tensors["memory/cursor"])

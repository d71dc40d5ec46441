"""The loop of all three trainings: go on, step, average, log, checkpoint, export.

The folder of a training:
    training.json        its settings
    checkpoints/         everything its next step depends on
    log.jsonl            losses by noise band, images a second, held-out losses
    samples/             sheets of samples, one a checkpoint
    model/               the averaged weights as a diffusers folder, replaced whole

Noise and data are functions of the seed and the step, so a checkpoint needs no random state, and a
training that was killed goes on to the same bits (on the CPU, with a budget in images, and the same
number of threads).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ... import stopping
from ...errors import UserError
from ...files import write_whole
from ...runs import checkpoints
from ...runs.progress import clock, say
from ...scene.images import save_png
from ..names import VERSION_FILE, is_toybox
from ..version import write_version
from .data import Batch
from .models import rate_factor
from .settings import TrainConfig

BETAS = (0.9, 0.99)


class Task(Protocol):
    """What is learned; see `DiffusionTask` and `AutoencoderTask`."""

    net: Any
    average: Any

    def batches(self, start: int, workers: int) -> Iterator[Batch]: ...
    def loss(self, batch: Batch, noise: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]: ...
    def evaluate(self) -> dict[str, float]: ...
    def picture(self) -> Tensor: ...
    def export(self, folder: Path) -> None: ...
    def tensors(self) -> dict[str, Tensor]: ...
    def load(self, tensors: Mapping[str, Tensor]) -> None: ...


@dataclass
class Count:
    """How far a training is: steps, images that went into them, seconds it took."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0

    def progress(self, config: TrainConfig) -> float:
        """Share of the budget that is used up."""
        if config.images is not None:
            return self.images / config.images
        return self.seconds / (60.0 * (config.minutes or 1.0))


@dataclass
class Tally:
    """Losses since the last line of the log."""

    parts: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def add(self, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Take in one step."""
        self.parts["loss"].append(loss.detach()[None])
        for name, values in parts.items():
            self.parts[name].append(values)

    def means(self) -> dict[str, float]:
        """The mean of each, and start anew."""
        means = {name: float(torch.cat(values).mean()) for name, values in self.parts.items()}
        self.parts.clear()
        return dict(sorted(means.items()))


class Training:
    """A task with its optimizer, its counters and its folder."""

    def __init__(self, task: Task, config: TrainConfig, folder: Path, device: torch.device) -> None:
        self.task, self.config, self.folder, self.device = task, config, folder, device
        self.count = Count()
        self.names = checkpoints.parameter_names(("net", task.net))
        self.ema = EMAModel(task.net.parameters(), decay=config.ema)
        self.optimizer = torch.optim.AdamW(
            task.net.parameters(), lr=config.rate, betas=BETAS, fused=True
        )

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of AdamW down the loss of a batch; the average follows."""
        config, count = self.config, self.count
        factor = rate_factor(count.step, count.progress(config), config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate * factor
        noise = torch.Generator(self.device).manual_seed(step_seed(config.seed, count.step))
        loss, parts = self.task.loss(batch.to(self.device), noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.task.net.parameters(), config.clip)
        self.optimizer.step()
        self.ema.step(self.task.net.parameters())
        count.step += 1
        count.images += config.batch
        return loss, parts

    def average(self) -> None:
        """Bring the task's averaged networks up to date."""
        self.ema.copy_to(self.task.average.parameters())

    def save(self) -> None:
        """Write a checkpoint."""
        count = self.count
        self.average()
        state = checkpoints.optimizer_state(self.optimizer, self.names)
        for name, net in (("net", self.task.net), ("average", self.task.average)):
            state |= checkpoints.with_prefix(name, net.state_dict())
        state |= self.task.tensors()
        state["images"] = torch.tensor(count.images)
        state["seconds"] = torch.tensor(count.seconds, dtype=torch.float64)
        checkpoints.write_checkpoint(self.folder / "checkpoints", count.step, state)

    def load(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        step, tensors = checkpoints.read_latest(
            self.folder / "checkpoints", lambda message: say(f"warning: {message}")
        )
        if step is None or tensors is None:
            return
        for name, net in (("net", self.task.net), ("average", self.task.average)):
            net.load_state_dict(checkpoints.under_prefix(name, tensors))
        checkpoints.load_optimizer_state(self.optimizer, self.names, tensors)
        self.task.load(tensors)
        self.ema = EMAModel(self.task.average.parameters(), decay=self.config.ema)
        self.ema.optimization_step = step
        self.count = Count(step, int(tensors["images"]), float(tensors["seconds"]))

    def publish(self) -> None:
        """Score the average, write its samples and its diffusers folder."""
        self.average()
        scores = self.task.evaluate()
        self.log(scores)
        told = "  ".join(f"{k} {v:.4g}" for k, v in scores.items() if " t " not in k)
        say(f"{self.config.kind}  checkpoint at {self.count.images:,} images  {told}")
        save_png(self.task.picture(), self.folder / "samples" / f"step-{self.count.step:06d}.png")
        export(self.task, self.folder / "model", self._provenance(scores))

    def log(self, values: Mapping[str, float]) -> None:
        """Append one line to log.jsonl."""
        count = self.count
        line = {"step": count.step, "images": count.images, "seconds": round(count.seconds, 2)}
        line |= {name: float(f"{value:.6g}") for name, value in values.items()}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _provenance(self, scores: Mapping[str, float]) -> dict[str, Any]:
        count = self.count
        settings = self.config.model_dump(mode="json")
        spent = {"images": count.images, "minutes": round(count.seconds / 60.0, 1)}
        return spent | {"scores": dict(scores), "settings": settings}


def train(training: Training, workers: int) -> None:
    """Train to the end of the budget, from the last checkpoint if there is one.

    Raises UserError if a loss is not finite; the checkpoints before it stay. Raises Stopped, after
    a checkpoint of the step under way, if the process was asked to stop.
    """
    config, folder = training.config, training.folder
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    training.load()
    _forget_lines(folder / "log.jsonl", training.count.step)
    if training.count.progress(config) >= 1.0:
        say(f"{config.kind}  the budget is used up; give more --minutes or --images to go on")
        if published_images(folder / "model") != training.count.images:
            training.publish()
        return
    before, began = training.count.seconds, time.monotonic()
    tally, logged, saved, published = Tally(), (training.count.images, before), before, before
    with stopping.finish_first():
        for batch in training.task.batches(training.count.step, workers):
            tally.add(*training.step(batch))
            count = training.count
            count.seconds = before + time.monotonic() - began
            done = count.progress(config) >= 1.0
            if count.step % config.log_every == 0 or done:
                _report(training, tally, logged)
                logged = (count.images, count.seconds)
            if done or count.seconds - saved >= 60.0 * config.checkpoint_minutes:
                training.save()
                saved = count.seconds
            if done or count.seconds - published >= 60.0 * config.publish_minutes:
                training.publish()
                published = count.seconds
            if done:
                return
            if stopping.asked():
                training.save()
                stopping.check()


def _report(training: Training, tally: Tally, logged: tuple[int, float]) -> None:
    """Log and show the losses since the last report; stop if one is not finite."""
    count, config = training.count, training.config
    means = tally.means()
    if not all(math.isfinite(value) for value in means.values()):
        raise UserError(
            f"the loss is not finite at step {count.step}; the last checkpoint in "
            f"{training.folder} is whole: go on from it with a lower --set rate"
        )
    speed = (count.images - logged[0]) / max(count.seconds - logged[1], 1e-9)
    training.log({**means, "images/s": speed, "rate": training.optimizer.param_groups[0]["lr"]})
    share = count.progress(config)
    left = clock(count.seconds * (1.0 - share) / share) if share < 1.0 else "0:00"
    say(
        f"{config.kind}  {count.images:,} images  {100 * min(share, 1.0):.1f}%  {left} left"
        f"  loss {means['loss']:.4f}  {speed:.1f} images/s"
    )


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's noise."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def export(task: Task, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write a task's diffusers folder in place of the one before, whole or not at all."""
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    task.export(part)
    write_version(part, provenance)
    for file in part.rglob("*.safetensors"):
        shutil.copymode(part / VERSION_FILE, file)  # the library writes for the owner's eyes alone
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def published_images(folder: Path) -> int | None:
    """How many images the weights in a diffusers folder have seen; None if there are none yet."""
    if not is_toybox(folder):
        return None
    return json.loads((folder / VERSION_FILE).read_text("utf-8"))["training"].get("images")


def _forget_lines(log: Path, step: int) -> None:
    """Drop what was logged after the checkpoint that the training goes on from."""
    if not log.is_file():
        return
    lines = log.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        write_whole(log, "".join(kept))


def _step_of(line: str) -> float:
    """The step of a line of the log; a line that was cut off belongs to none."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf

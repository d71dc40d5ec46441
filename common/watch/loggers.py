"""Where numbers and pictures go beside a run's folder: TensorBoard, wandb, or nowhere."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from ..runs.folder import Run
from ..runs.progress import say
from ..runs.watching import watching

TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Picture:
    """A picture as a PNG file's bytes, and its size in pixels."""

    png: bytes
    width: int
    height: int


class Logger(Protocol):
    """Takes a stage's numbers and pictures as they come."""

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None: ...
    def picture(self, step: int, image: Picture) -> None: ...
    def close(self) -> None: ...


class Nothing:
    """Takes them and keeps nothing."""

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        pass

    def picture(self, step: int, image: Picture) -> None:
        pass

    def close(self) -> None:
        pass


class _Board:
    """TensorBoard's event files, in `tensorboard/STAGE` of the run's folder."""

    def __init__(self, run: Run, stage: str, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _quieten_writers()
        place = str(run.folder / TENSORBOARD / stage)
        self._proto: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._writer: Any = SummaryWriter(place, purge_step=start + 1 if start else None)

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, image: Picture) -> None:
        kept = self._proto.Summary.Image(height=image.height, width=image.width, colorspace=3)
        kept.encoded_image_string = image.png
        value = self._proto.Summary.Value(tag="views", image=kept)
        self._writer.file_writer.add_summary(self._proto.Summary(value=[value]), step)

    def close(self) -> None:
        self._writer.close()


@functools.cache
def _quieten_writers() -> None:
    """TensorBoard's writing threads end without a word where the disk refuses; `Guarded` tells."""
    hook = threading.excepthook

    def quiet(told: threading.ExceptHookArgs) -> None:
        ours = "tensorboard" in type(told.thread).__module__
        if not (ours and isinstance(told.exc_value, OSError)):
            hook(told)

    threading.excepthook = quiet


class _Wandb:
    """A run of Weights & Biases; its own settings (WANDB_MODE, WANDB_PROJECT) hold."""

    def __init__(self, run: Run, stage: str) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb: Any = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "maquette"),
            name=f"{run.folder.name} {stage}",
            dir=str(run.folder),
            config=run.config.model_dump(mode="json"),
        )

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def picture(self, step: int, image: Picture) -> None:
        with Image.open(io.BytesIO(image.png)) as opened:
            self._run.log({"views": self._wandb.Image(opened)}, step=step)

    def close(self) -> None:
        self._run.finish()


class Guarded:
    """A logger whose first failure is told in a line and is its last; the run goes on."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name, self._logger = name, logger

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        self._try(lambda: self._logger.numbers(step, numbers))

    def picture(self, step: int, image: Picture) -> None:
        self._try(lambda: self._logger.picture(step, image))

    def close(self) -> None:
        self._try(self._logger.close)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # another program's: whatever it is, the run matters more
            say(f"warning: {self._name} failed ({_line(error)}); it is left out", important=True)
            self._logger = Nothing()


def open_logger(run: Run, stage: str, start: int) -> Logger:
    """The logger that was asked for; one that can't be had is told of in a line, and left out."""
    chosen = watching().log
    if chosen == "auto":
        chosen = "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
    try:
        match chosen:
            case "tensorboard":
                return Guarded("TensorBoard", _Board(run, stage, start))
            case "wandb":
                return Guarded("wandb", _Wandb(run, stage))
            case "none":
                return Nothing()
    except ImportError:
        extra = "tensorboard" if chosen == "tensorboard" else "wandb"
        say(f"warning: {chosen} isn't installed: pip install {extra}; left out", important=True)
    except Exception as error:  # no login, no network, a disk of its own
        say(f"warning: {chosen} can't be used ({_line(error)}); left out", important=True)
    return Nothing()


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]

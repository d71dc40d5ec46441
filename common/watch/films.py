"""Films of pictures: MP4 by ffmpeg, where there is one, and animated WebP by Pillow."""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..files import write_whole
from ..runs.progress import say
from ..scene.images import to_uint8

Frame = NDArray[np.uint8]
"""A picture of a film, uint8 `[H, W, 3]`."""


class FilmError(Exception):
    """A film that can't be made, and why."""


def frames_of(images: Tensor) -> list[Frame]:
    """Images `[B, H, W, 3]` in [0, 1] as a film's frames."""
    return list(to_uint8(images).numpy())


def write_film(path: Path, frames: Sequence[Frame], rate: float = 12.0) -> list[Path]:
    """Write `path`.webp and `path`.mp4; what can't be made is told in a line, and left out.

    frames: at least one, all of one size. rate: frames a second. Returns what was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, encode in ((".webp", webp), (".mp4", mp4)):
        target = path.with_name(path.name + suffix)
        try:
            write_whole(target, encode(frames, rate))
            written.append(target)
        except (FilmError, OSError, ValueError) as error:
            told = " ".join(str(error).split())[:200]
            say(f"warning: {target.name} can't be made ({told}); left out", important=True)
    return written


def webp(frames: Sequence[Frame], rate: float = 12.0) -> bytes:
    """An animated WebP that repeats for ever. Raises FilmError for no frames."""
    if not frames:
        raise FilmError("no frames")
    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=rest,
        duration=round(1000.0 / rate),
        loop=0,
        quality=75,
        method=2,
    )
    return buffer.getvalue()


def mp4(frames: Sequence[Frame], rate: float = 12.0) -> bytes:
    """An H.264 film that browsers play.

    An odd side gets one more row or column of its last pixels: the format wants even ones.
    Raises FilmError if there is no ffmpeg, or it fails.
    """
    if not frames:
        raise FilmError("no frames")
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except ImportError:
        raise FilmError("imageio-ffmpeg isn't installed: pip install imageio-ffmpeg") from None
    except RuntimeError:
        raise FilmError("no ffmpeg on this machine") from None
    even = [evened(frame) for frame in frames]
    height, width = even[0].shape[:2]
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "film.mp4"
        command = [program, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", f"{rate:g}", "-i", "-", "-an"]
        command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-threads", "1"]
        command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", str(target)]
        try:
            ended = subprocess.run(
                command,
                input=b"".join(np.ascontiguousarray(frame).tobytes() for frame in even),
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise FilmError(f"ffmpeg doesn't start: {error.strerror}") from None
        if ended.returncode != 0:
            raise FilmError(f"ffmpeg: {ended.stderr.decode('utf-8', 'replace').strip()}")
        return target.read_bytes()


def evened(frame: Frame) -> Frame:
    """A frame with even sides: the last row or column once more where there is an odd number."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def scaled(image: Image.Image, width: int, height: int) -> Frame:
    """A picture at another size as a frame."""
    resampled = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resampled, dtype=np.uint8)


def hold(frames: Sequence[Frame], count: int) -> list[Frame]:
    """The last frame `count` times, so that an eye can rest on it."""
    return [frames[-1]] * count if frames else []

"""benchmarks/RESULTS.md: one section a benchmark, each written by its own script."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from maquette.common.scene.images import strip

PATH = Path(__file__).parent / "RESULTS.md"
_HEAD = """# Results

Every number here was written by a script of this folder; run the script to make it anew.
"""


def write_section(script: str, body: str) -> None:
    """Replace the section of `script` (its file name) in RESULTS.md, or add it at the end."""
    text = PATH.read_text("utf-8") if PATH.exists() else _HEAD
    section = f"## {script}\n\n{body.strip()}\n\n{machine()}\n"
    pattern = re.compile(rf"^## {re.escape(script)}\n.*?(?=^## |\Z)", re.M | re.S)
    if pattern.search(text):
        text = pattern.sub(lambda _: section + "\n", text)
    else:
        text = f"{text.rstrip()}\n\n{section}"
    PATH.write_text(text.rstrip() + "\n", "utf-8")


def save_sheet(images: Tensor, path: Path, columns: int) -> None:
    """Write images `[B, H, W, 3]` side by side as a picture of the docs: 256 colours, a PNG."""
    pixels = (strip(images, columns).clamp(0.0, 1.0) * 255.0).round().byte().numpy()
    shown = Image.fromarray(pixels).quantize(
        256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    shown.save(path, optimize=True)


def read_rows(script: str) -> list[list[str]]:
    """The rows of the tables in the section of `script`, heads among them; none without it."""
    text = PATH.read_text("utf-8") if PATH.exists() else ""
    found = re.search(rf"^## {re.escape(script)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    lines = found[1].splitlines() if found else []
    return [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in lines
        if line.startswith("| ")
    ]


def machine() -> str:
    """One line on what the numbers were measured with."""
    return (
        f"*Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}.*"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

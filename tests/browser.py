"""A headless Chromium for tests of pages, where this machine has one."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

PATIENCE = 240_000
"""Milliseconds within which something comes, even where other programs share the cores."""
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
_FLAGS += ["--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


@contextmanager
def browser() -> Iterator[Any]:
    """A browser of playwright's; the test is skipped without playwright or Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=_FLAGS)
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def page_at(address: str, opened: Any, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page, and what it complains of in its console meanwhile."""
    page = opened.new_page(viewport={"width": 1100, "height": 900}, **options)
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address, wait_until="load", timeout=PATIENCE)
    try:
        yield page, wrong
    finally:
        page.close()


def picture(element: Any) -> NDArray[np.uint8]:
    """What an element looks like, uint8 `[H, W, 3]`."""
    with Image.open(io.BytesIO(element.screenshot(timeout=PATIENCE))) as shot:
        return np.array(shot.convert("RGB"))

"""Commands of the program in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from maquette import pipeline

ROOT = Path(pipeline.__file__).parent


def started(
    *arguments: str,
    stdout: int = subprocess.DEVNULL,
    before: Callable[[], None] | None = None,
    **environment: str,
) -> subprocess.Popen[str]:
    """The command line in a new process, which a test may read, signal and kill.

    before: is called in the new process before the program. environment: variables beside ours.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "maquette.pipeline", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )

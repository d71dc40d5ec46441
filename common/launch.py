"""`--gpus N`: the same command once a GPU, watched until all have ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError

LOST = 3  # the exit code of a process that the others have left
GRACE_S = 10.0  # for the others to end by themselves once one has failed


def on_gpus(count: int, device: str | None) -> bool:
    """Whether this process is the one that has to begin the others.

    Raises UserError if there aren't so many GPUs; `--device cpu` takes as many processes.
    """
    if "WORLD_SIZE" in os.environ or count < 2:
        return False
    if device == "cpu":
        return True
    import torch

    found = torch.cuda.device_count()
    if found < count:
        raise UserError(
            f"--gpus {count}: this machine has {found}; give fewer, or --device cpu for as many "
            "processes on the CPU"
        )
    return True


def launch(count: int, arguments: Sequence[str]) -> None:
    """Run this program `count` times with `arguments` and wait for the end.

    The first process has the terminal. Exits with its code if it told what is wrong itself. Raises
    UserError if another one ended before its time.
    """
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "maquette.pipeline", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{rank}.log" for rank in range(count)]
        processes: list[subprocess.Popen] = []
        try:
            for rank, log in enumerate(logs):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                with log.open("wb") as file:
                    streams = {} if rank == 0 else {"stdout": subprocess.DEVNULL, "stderr": file}
                    processes.append(subprocess.Popen(command, env=environment | own, **streams))
            failed = watch(processes)
        finally:
            _end(processes)
        if failed is None:
            return
        if processes[0].returncode == 2:  # it has said why
            sys.exit(2)
        rank, code = failed
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        lines = logs[rank].read_text("utf-8", "replace").splitlines() if rank else []
        said = f" ({lines[-1].strip()[:200]})" if lines else ""
        raise UserError(
            f"process {rank} of {count} ended {how}{said}; the last checkpoint is kept, and the "
            "same command goes on from it"
        )


def watch(processes: Sequence[subprocess.Popen], pause: float = 0.1) -> tuple[int, int] | None:
    """The process that failed first and its code, once all have ended or had time to; or None.

    One that only lost the others (`LOST`) is named if none failed by itself.
    """
    failed, since = None, 0.0
    while True:
        codes = [process.poll() for process in processes]
        if failed is None or failed[1] == LOST:
            since = time.monotonic() if failed is None else since
            ended = [(rank, code) for rank, code in enumerate(codes) if code]
            failed = min(ended, key=lambda pair: pair[1] == LOST, default=failed)
        if None not in codes or (failed is not None and time.monotonic() - since > GRACE_S):
            return failed
        time.sleep(pause)


def without_gpus(arguments: Sequence[str]) -> list[str]:
    """Arguments of the command line without `--gpus N`."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument.startswith("--gpus="):
            skip = False
        elif argument == "--gpus":
            skip = True
        else:
            kept.append(argument)
    return kept


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """End the processes that were begun here and still run."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()

"""A queue of runs, each a process of its own, kept in files so that no end of a server loses one.

`ROOT/.desk/ID.json` holds what was asked for and which process works at it. A run's process is in a
session of its own and goes on when the server ends; a server that is started later finds it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..begin import Choices, mesh_words, plan, with_mesh
from ..config.models import RunConfig
from ..errors import UserError
from ..files import write_whole
from ..runs.folder import slug

DESK = ".desk"
MOST_QUEUED = 100
"""Jobs that may wait; a page that anyone can press must not fill the disk."""
MESHES = (".obj", ".glb", ".ply", ".stl", ".off", ".3mf")
"""Files of meshes that a run may begin with."""
State = Literal["queued", "running", "stopped", "failed", "finished"]


@dataclass(frozen=True)
class Ticket:
    """One job. id: its name in the queue. folder: the run's, below the desk's root. command: that
    makes it. pid: of its process while there is one. error: the line it ended with.
    """

    id: str
    prompt: str
    folder: str
    options: tuple[str, ...]
    made: float
    command: str = "run"
    state: State = "queued"
    pid: int | None = None
    error: str | None = None


class Desk:
    """Takes jobs, starts their processes, `at_once` at a time, and tells how they are."""

    def __init__(
        self,
        root: Path,
        at_once: int = 1,
        settings: Sequence[str] = (),
        command: Sequence[str] | None = None,
    ) -> None:
        """settings: `key=value` texts for every run. command: what starts the program; by default
        this Python and this package.
        """
        self.root, self._at_once, self._settings = root.resolve(), at_once, tuple(settings)
        code = "from maquette.pipeline import main; main()"
        self._command = command or (sys.executable, "-c", code)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        (self.root / DESK).mkdir(parents=True, exist_ok=True)

    def make(self, prompt: str, choices: Choices, mesh: str | None = None) -> Ticket:
        """Queue a run. Raises UserError for what is wrong with it, and for a queue that is full.

        mesh: a file, to be painted; what is wrong in it is found out by the run's own process.
        """
        choices = replace(choices, settings=[*self._settings, *choices.settings])
        config = plan(prompt, choices) if mesh is None else painted(prompt, mesh, choices)
        with self._lock:
            if sum(ticket.state == "queued" for ticket in self.tickets()) >= MOST_QUEUED:
                raise UserError(f"{MOST_QUEUED} runs are waiting already; try again later")
            folder = self._new_folder(config.title)
            options = ["--out", str(folder), "--log", "none"]
            for name in ("prior", "preset", "seed", "config", "device"):
                value = getattr(choices, name)
                options += [] if value is None else [f"--{name}", str(value)]
            for pair in choices.settings:
                options += ["--set", pair]
            for image in choices.images:
                options += ["--image", str(self._kept(Path(image), folder.name))]
            if mesh is not None:
                options += ["--mesh", str(self._kept(Path(mesh), folder.name))]
            command = "run" if mesh is None else "texture"
            name, words = folder.name, tuple(options)
            ticket = Ticket(name, prompt.strip(), name, words, time.time(), command)
            self._write(ticket)
        self.turn()
        return self.ticket(ticket.id)

    def stop(self, name: str) -> Ticket:
        """End a job's process; its run can go on from its last checkpoint."""
        with self._lock:
            ticket = self.ticket(name)
            if ticket.state == "running" and ticket.pid is not None:
                self._end(ticket)
            if ticket.state in ("queued", "running"):
                self._write(replace(ticket, state="stopped", pid=None))
        self.turn()
        return self.ticket(name)

    def resume(self, name: str) -> Ticket:
        """Queue a job again that was stopped or has failed."""
        with self._lock:
            ticket = self.ticket(name)
            if ticket.state in ("stopped", "failed"):
                self._write(replace(ticket, state="queued", error=None))
        self.turn()
        return self.ticket(name)

    def ticket(self, name: str) -> Ticket:
        """A job by its name. Raises UserError if there is none."""
        path = self._path(name)
        if path is None or not path.is_file():
            raise UserError(f"no job '{name}'")
        found = json.loads(path.read_text("utf-8"))
        return Ticket(**{**found, "options": tuple(found["options"])})

    def tickets(self) -> list[Ticket]:
        """All jobs, oldest first."""
        names = [path.stem for path in (self.root / DESK).glob("*.json")]
        return sorted((self.ticket(name) for name in names), key=lambda ticket: ticket.made)

    def ahead(self, name: str) -> int:
        """How many jobs are before one that waits."""
        waiting = [t.id for t in self.tickets() if t.state in ("queued", "running")]
        return waiting.index(name) if name in waiting else 0

    def turn(self) -> None:
        """See which processes have ended, and start those whose turn it is."""
        with self._lock:
            for ticket in self.tickets():
                if ticket.state == "running" and not self._alive(ticket):
                    self._write(self._ended(ticket))
            waiting = [t for t in self.tickets() if t.state == "queued"]
            busy = sum(t.state == "running" for t in self.tickets())
            for ticket in waiting[: max(0, self._at_once - busy)]:
                self._start(ticket)

    def log(self, ticket: Ticket) -> Path:
        """Where a job's process writes what it has to say."""
        return self.root / DESK / f"{ticket.id}.log"

    def progress(self, ticket: Ticket) -> Mapping[str, Any]:
        """The last progress that a job's process told; empty before."""
        for line in reversed(list(self._told(ticket))):
            if line.get("event") == "progress":
                return line
        return {}

    def _told(self, ticket: Ticket, most: int = 65536) -> Iterator[dict[str, Any]]:
        try:
            with self.log(ticket).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - most))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return
        for line in lines:
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    yield found

    def _ended(self, ticket: Ticket) -> Ticket:
        if (self.root / ticket.folder / "export" / "report.json").is_file():
            return replace(ticket, state="finished", pid=None)
        errors = [line for line in self._told(ticket) if line.get("event") == "error"]
        error = str(errors[-1]["message"]) if errors else "its process ended before its time"
        return replace(ticket, state="failed", pid=None, error=error)

    def _start(self, ticket: Ticket) -> None:
        begun = (self.root / ticket.folder / "config.yaml").is_file()
        words = (
            ["resume", "--json", "--log", "none", str(self.root / ticket.folder)]
            if begun
            else [ticket.command, "--json", *ticket.options, "--", *filter(None, [ticket.prompt])]
        )
        with self.log(ticket).open("wb") as log:
            child = subprocess.Popen(
                [*self._command, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it isn't ended with the server
            )
        self._children[ticket.id] = child
        self._write(replace(ticket, state="running", pid=child.pid, error=None))

    def _alive(self, ticket: Ticket) -> bool:
        child = self._children.get(ticket.id)
        if child is not None:
            return child.poll() is None
        return ticket.pid is not None and _is_ours(ticket.pid, str(self.root / ticket.folder))

    def _end(self, ticket: Ticket) -> None:
        assert ticket.pid is not None
        if not self._alive(ticket):
            return
        with suppress(OSError):
            os.kill(ticket.pid, signal.SIGINT if os.name != "nt" else signal.SIGTERM)
        deadline = time.monotonic() + 60.0
        while self._alive(ticket):
            if time.monotonic() > deadline:
                with suppress(OSError):
                    os.kill(ticket.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
                return
            time.sleep(0.1)

    def _kept(self, upload: Path, name: str) -> Path:
        """A file's copy at the desk: a visitor's upload is gone before its turn may come."""
        for number in range(1000):
            place = self.root / DESK / f"{name}-{number}{upload.suffix.lower()}"
            if not place.exists():
                write_whole(place, upload.read_bytes())
                return place
        raise AssertionError(name)

    def _new_folder(self, prompt: str) -> Path:
        """A folder's name that neither a run nor a job has."""
        name, number = slug(prompt), 1
        while True:
            own = name if number == 1 else f"{name}-{number}"
            path = self._path(own)
            assert path is not None
            if not (self.root / own).exists() and not path.exists():
                return self.root / own
            number += 1

    def _path(self, name: str) -> Path | None:
        """The file of a job; None for a name that is none, such as a path to elsewhere."""
        if name != slug(name) and not name.replace("-", "").isalnum():
            return None
        return self.root / DESK / f"{name}.json"

    def _write(self, ticket: Ticket) -> None:
        path = self._path(ticket.id)
        assert path is not None
        write_whole(path, json.dumps(asdict(ticket), indent=2) + "\n")


def painted(prompt: str, mesh: str, choices: Choices) -> RunConfig:
    """The checked configuration of a run that paints a mesh. Raises UserError as `plan` does."""
    if choices.images:
        raise UserError("give a picture or a mesh, not both")
    if not prompt.strip():
        raise UserError("a mesh is painted after a prompt; say what it is")
    if Path(mesh).suffix.lower() not in MESHES:
        raise UserError(f"a mesh can be read from {', '.join(MESHES)}")
    return with_mesh(prompt, mesh_words(mesh, keep=True, up=None, front=None), choices)


def _is_ours(pid: int, folder: str) -> bool:
    """Whether a process lives and works at a folder: numbers of processes are used again."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        state = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2]
    except OSError:
        return os.name != "posix" or not Path("/proc/self").exists()  # it can't be looked at
    return folder in words.split("\0") and state.split()[0] != "Z"

"""What becomes of a run whose files are damaged at random? No traceback, no hang, no wrong "done".

    python benchmarks/fuzz.py [--minutes 10] [--seed 0]

A small finished run is copied, one of its files is changed (a byte flipped, an end cut off, tensors
swapped, a line of JSON halved, a file emptied, deleted, or made a folder, a pipe or a link that
leads out), and a command is given on it. It must end with exit code 0, or with code 2 and one line;
nothing outside the run may change; and after `resume` with code 0 the run must be as it was before
the damage, unless what was damaged says so. Writes its section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file

from maquette import pipeline
from maquette.coarse.train import run_coarse
from maquette.common.begin import Choices, begin
from maquette.common.runs.checkpoints import read_tensors, write_tensors
from maquette.fine.deliver import finish_export
from maquette.fine.train import run_fine

SMALL = (
    *("coarse.prior=exact", "fine.prior=exact", "coarse.steps=6", "coarse.checkpoint_every=3"),
    *("coarse.samples=24", "coarse.field.grid.levels=4", "coarse.field.grid.log2_entries=12"),
    *("coarse.field.hidden=16", "coarse.field.density_bias=10", "coarse.field.density_radius=0.5"),
    *("coarse.occupancy.resolution=16", "coarse.occupancy.start=0.02", "handoff.resolution=32"),
    *("handoff.views=16", "handoff.view_resolution=32", "fine.steps=2", "fine.views=1"),
    *("fine.geometry.resolution=24", "fine.checkpoint_every=1", "export.faces=500"),
    *("export.texture_size=64",),
)
COMMANDS = ("resume", "resume", "export", "fine", "evaluate")
PATIENCE = 1200  # seconds a command may take on a busy machine before it is called hung
KEPT = ("coarse/result.safetensors", "fine/step-000002.safetensors", "export/a-red-cat.obj")


@dataclass
class Found:
    """What the commands did: exit codes by kind of damage, and what was wrong."""

    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def small_run(folder: Path) -> Path:
    """A finished run, small enough to be made again and again."""
    run = begin("a red cat", Choices(settings=SMALL, out=str(folder), device="cpu"))
    run_coarse(run)
    run_fine(run)
    finish_export(run)
    return folder


def damage(folder: Path, draw: random.Random) -> tuple[str, str]:
    """Change one file of a run; returns the kind of damage and the file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    path = draw.choice(files)
    name = path.relative_to(folder).as_posix()
    kinds = ["flipped", "cut", "emptied", "deleted", "garbage", "folder", "pipe", "link"]
    if path.suffix == ".safetensors":
        kinds += ["swapped", "lacking", "flipped", "cut"]
    if path.suffix in (".json", ".jsonl", ".yaml"):
        kinds += ["halved", "typed", "nested", "flipped"]
    kind = draw.choice(kinds)
    content = path.read_bytes()
    at = draw.randrange(max(1, len(content)))
    match kind:
        case "flipped":
            changed = bytearray(content or b"\0")
            changed[at] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(changed))
        case "cut":
            path.write_bytes(content[:at])
        case "emptied":
            path.write_bytes(b"")
        case "deleted":
            path.unlink()
        case "garbage":
            path.write_bytes(draw.randbytes(200))
        case "folder":
            path.unlink()
            path.mkdir()
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "link":
            path.unlink()
            path.symlink_to(folder.parent / "outside" / "letter")
        case "swapped" | "lacking":
            _rewrite(path, kind, draw)
        case "halved":
            lines = content.splitlines()
            line = draw.randrange(max(1, len(lines)))
            lines[line : line + 1] = [lines[line][: len(lines[line]) // 2]] if lines else []
            path.write_bytes(b"\n".join(lines))
        case "typed":
            old, new = draw.choice([(b"1", b"x"), (b": ", b": -"), (b"0", b"null"), (b"e", b"[")])
            path.write_bytes(content.replace(old, new, 1))
        case "nested":
            path.write_bytes(b"[" * 50_000)
    return kind, name


def _rewrite(path: Path, kind: str, draw: random.Random) -> None:
    """Swap two tensors of a file, or leave one out, with a checksum that fits."""
    tensors = load_file(path)
    names = sorted(tensors)
    if kind == "lacking":
        tensors.pop(draw.choice(names))
    else:
        one, two = draw.choice(names), draw.choice(names)
        tensors[one], tensors[two] = tensors[two].clone(), tensors[one].clone()
    write_tensors(path, tensors)


def call(arguments: Sequence[str]) -> tuple[int | str, str]:
    """The exit code of a command and what it said; in place of the code, what went wrong."""
    said = io.StringIO()
    before = sys.argv
    sys.argv = ["maquette", *arguments]
    try:
        quiet, heard = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said)
        with _impatient(), quiet, heard:
            pipeline.main()
        return 0, said.getvalue()
    except SystemExit as ended:
        return (ended.code if isinstance(ended.code, int) else 1), said.getvalue()
    except TimeoutError:
        return "hung", said.getvalue()
    except Exception:
        return "traceback", traceback.format_exc()[-600:]
    finally:
        sys.argv = before


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)


def same(one: Path, two: Path) -> list[str]:
    """Which of the results that count differ between two runs."""
    wrong = []
    for name in KEPT:
        if name.endswith(".safetensors"):
            a, b = read_tensors(one / name), read_tensors(two / name)
            equal = a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)
        else:
            equal = (one / name).read_bytes() == (two / name).read_bytes()
        if not equal:
            wrong.append(name)
    return wrong


def one_try(reference: Path, place: Path, draw: random.Random, found: Found) -> None:
    """Damage a copy of the run, give a command, and judge what came of it."""
    folder, outside = place / "run", place / "outside"
    for old in (folder, outside):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(reference, folder)
    outside.mkdir()
    (outside / "letter").write_text("dear")
    kind, name = damage(folder, draw)
    command = draw.choice(COMMANDS)
    code, said = call([command, str(folder)])
    what = f"{kind} {name}, {command}"
    if isinstance(code, str):
        found.wrong.append(f"{what}: {code}: {said[-300:]}")
        return
    found.codes[kind, code] += 1
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code not in (0, 2) or (code == 2 and len(errors) != 1):
        found.wrong.append(f"{what}: code {code}, {said[-300:]}")
    names = sorted(p.relative_to(place).as_posix() for p in place.iterdir())
    letter = outside / "letter"
    if (
        names != ["outside", "run"]
        or letter.read_text() != "dear"
        or len(list(outside.iterdir())) > 1
    ):
        found.wrong.append(f"{what}: something outside the run was changed")
    # A tensor that was swapped with a fitting checksum is what the file says it is.
    if code == 0 and command == "resume" and kind not in ("swapped", "lacking"):
        with contextlib.suppress(OSError):
            found.wrong += [
                f"{what}: {n} is another one, and called done" for n in same(folder, reference)
            ]


def main() -> None:
    """Damage, command, judge, for some minutes."""
    from results import table, write_section

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, found = random.Random(options.seed), Found()
    with tempfile.TemporaryDirectory(prefix="maquette-fuzz-") as name:
        reference = small_run(Path(name) / "reference")
        place = Path(name) / "place"
        place.mkdir()
        ends = time.monotonic() + 60.0 * options.minutes
        while time.monotonic() < ends:
            one_try(reference, place, draw, found)
    kinds = sorted({kind for kind, _ in found.codes})
    rows = [[k, str(found.codes[k, 0]), str(found.codes[k, 2])] for k in kinds]
    body = (
        f"{sum(found.codes.values())} damaged runs in {options.minutes:g} minutes, seed "
        f"{options.seed}; exit codes by kind of damage.\n\n"
        f"{table(['damage', 'made whole or not needed (0)', 'told in one line (2)'], rows)}\n\n"
        f"Tracebacks, hangs, wrong results called done, writes outside the run: {len(found.wrong)}."
        + "".join(f"\n- {json.dumps(wrong)}" for wrong in found.wrong)
    )
    print(body)
    write_section("fuzz.py", body)
    if found.wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()

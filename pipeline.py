"""The commands of maquette. Each says what it does; the work is in coarse/, fine/ and common/.

Nothing heavy is imported until a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer

from maquette.common import stopping
from maquette.common.errors import UserError, one_line, shown
from maquette.common.threads import settle
from maquette.common.toybox.grammar import ALL_WORDS

# What a disk, a path or the machine refuses is the user's to mend, and nothing is lost by it.
_REFUSED = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EFBIG", "EIO", "ESTALE", "EBUSY"),
        *("ENAMETOOLONG", "EISDIR", "ENOTDIR", "EEXIST", "ENOENT", "ELOOP", "ENXIO", "EINVAL"),
        *("EMFILE", "ENFILE", "ENOMEM", "EAGAIN"),
    )
    if hasattr(errno, name)
}
# How torch and the system's loader word that memory ran out.
_NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "Cannot allocate memory", "alloc_cpu"),
    *("failed to map segment", "can't start new thread"),
)

app = typer.Typer(
    name="maquette",
    help="Text to 3D: a prompt in, a textured mesh out, in two stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Prompt = Annotated[str, typer.Argument(help="What to make, for example: a red mushroom.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]
RunFolders = Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs.")]
ConfigFile = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="A YAML file, or the name of a shipped one."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
]
PriorName = Annotated[
    str | None, typer.Option("--prior", metavar="NAME", help="The prior that guides the stages.")
]
Loras = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="PATH[:WEIGHT]", help="Add a LoRA to it; may be repeated."),
]
Vram = Annotated[
    str | None,
    typer.Option("--vram", metavar="GIB", help="Fit a card of 8, 12, 16 or 24 GiB, or auto."),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the run.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="Threads to compute with.")
]
CoarseSteps = Annotated[
    int | None, typer.Option("--coarse-steps", metavar="N", help="Train the coarse stage on to N.")
]
FineSteps = Annotated[
    int | None, typer.Option("--fine-steps", metavar="N", help="Train the fine stage on to N.")
]
Redo = Annotated[
    bool, typer.Option("--redo", help="Do again what other settings made; the old is kept beside.")
]
OnFailure = Literal["stop", "retry"]
Answer = Annotated[
    OnFailure,
    typer.Option("--on-failure", help="stop in one line, or retry: slower, then other seeds."),
]
Out = Annotated[str | None, typer.Option("--out", metavar="FOLDER", help="The run's own folder.")]
NewPrompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="Refine with another prompt, in a new run."),
]
Faces = Annotated[int | None, typer.Option("--faces", metavar="N", help="Most faces to export.")]
TextureSize = Annotated[
    int | None, typer.Option("--texture-size", metavar="PX", help="Width of the texture.")
]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the scores as JSON.")
]


@app.command(epilog=ALL_WORDS)
def run(
    prompt: Prompt,
    config: ConfigFile = None,
    settings: Settings = None,
    prior: PriorName = None,
    loras: Loras = None,
    vram: Vram = None,
    seed: Seed = None,
    device: Device = None,
    on_failure: Answer = "stop",
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Make a textured mesh: coarse stage, fine stage, export."""
    from maquette.common.begin import Choices, begin

    settle(threads)
    choices = Choices(
        config,
        settings or (),
        prior,
        seed,
        device,
        out,
        loras=loras or (),
        vram=vram,
        threads=threads,
    )
    _all_stages(begin(prompt, choices), on_failure=on_failure)


@app.command(epilog=ALL_WORDS)
def coarse(
    prompt: Prompt,
    config: ConfigFile = None,
    settings: Settings = None,
    prior: PriorName = None,
    loras: Loras = None,
    vram: Vram = None,
    seed: Seed = None,
    device: Device = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Train the coarse stage alone; `fine` goes on from it."""
    from maquette.common.begin import Choices, begin

    settle(threads)
    choices = Choices(
        config,
        settings or (),
        prior,
        seed,
        device,
        out,
        loras=loras or (),
        vram=vram,
        threads=threads,
    )
    opened = begin(prompt, choices)
    from maquette.coarse.train import run_coarse  # what the command got wrong is told before

    with _at_work(opened):
        run_coarse(opened)
    typer.echo(opened.folder)


@app.command()
def fine(
    run_folder: RunFolder,
    prompt: NewPrompt = None,
    settings: Settings = None,
    prior: PriorName = None,
    loras: Loras = None,
    vram: Vram = None,
    device: Device = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Refine a finished coarse stage; with other settings or another prompt, in a new run."""
    from maquette.common.begin import Choices, derive

    settle(threads)
    choices = Choices(
        None,
        settings or (),
        prior,
        None,
        device,
        out,
        loras=loras or (),
        vram=vram,
        threads=threads,
    )
    opened = derive(run_folder, prompt, choices)
    from maquette.fine.train import run_fine

    with _at_work(opened):
        run_fine(opened)
    typer.echo(opened.folder)


@app.command()
def export(
    run_folder: RunFolder,
    faces: Faces = None,
    texture_size: TextureSize = None,
    threads: Threads = None,
) -> None:
    """Write OBJ, MTL, PNG and GLB of a finished fine stage, and read them back."""
    from maquette.common.runs.folder import open_run

    opened = open_run(run_folder)
    settle(threads or opened.threads)
    from maquette.fine.deliver import run_export

    with _at_work(opened):
        run_export(opened, faces, texture_size)


@app.command()
def resume(
    run_folder: RunFolder,
    coarse_steps: CoarseSteps = None,
    fine_steps: FineSteps = None,
    redo: Redo = False,
    on_failure: Answer = "stop",
    threads: Threads = None,
) -> None:
    """Go on with a run from its last checkpoint, through all stages; or with more steps."""
    from maquette.common.runs.folder import lengthened, open_run

    opened = lengthened(open_run(run_folder), {"coarse": coarse_steps, "fine": fine_steps})
    settle(threads or opened.threads)
    _all_stages(opened, redo or coarse_steps is not None, on_failure)


@app.command()
def evaluate(run_folders: RunFolders, json_file: JsonFile = None, threads: Threads = None) -> None:
    """Score runs against the toybox's truth."""
    settle(threads)
    from maquette.fine.evaluate import evaluate_runs

    evaluate_runs(run_folders, json_file)


@app.command()
def doctor() -> None:
    """Say which implementation runs for each part on this machine, and why."""
    settle(None)
    from maquette.common.runs.doctor import report

    for line in report():
        typer.echo(line)


@app.command("train-prior")
def train_prior(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="pixel, vae or latent.")],
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="M", help="Budget in minutes.")
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", metavar="N", help="Budget in images.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option("--vae", metavar="FOLDER", help="The autoencoder, for latent.")
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option("--begin", metavar="FOLDER", help="Weights of a like network to begin with."),
    ] = None,
    settings: Settings = None,
    seed: Seed = None,
    device: Device = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Train the embedded prior, or go on with a training that was cut off."""
    settle(threads)
    from maquette.common.embedded.training.command import train_prior

    folder = train_prior(kind, out, minutes, images, device, seed, vae, begin, settings)
    typer.echo(folder)


def main() -> None:
    """The `maquette` command: a user's mistake ends in one line and exit code 2."""
    # numba tries three ways to run threads and tells of the one that this machine's library lacks.
    warnings.filterwarnings("ignore", message="The TBB threading layer")
    stopping.watch()
    try:
        _read_as_utf8()
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except stopping.Stopped as stopped:
        if not stopped.told:
            typer.echo("stopped; to go on, give the same command again", err=True)
        sys.exit(stopped.exit_code)
    except OSError as error:
        if error.errno == errno.EPIPE:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads any more
            sys.exit(1)
        if error.errno not in _REFUSED:
            raise
        place = f" ({shown(error.filename, 120)})" if error.filename else ""
        _fail(f"{error.strerror}{place}: mend that, then go on with: maquette resume RUN")
    except (MemoryError, RuntimeError, ImportError) as error:
        if not isinstance(error, MemoryError) and not any(w in str(error) for w in _NO_MEMORY):
            raise
        _fail(
            "this machine's memory isn't enough for these settings; give fewer views, samples or "
            "pixels, such as --set coarse.views=1, or allow the process more memory"
        )
    except Exception as error:
        # What the command line's own reader refuses, whichever library it comes from.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(message(), err=True)
            sys.exit(2)
        _fail(f"{_lower(message()).rstrip('.')}; see: {_help_of(error)}")
    finally:
        stopping.unwatch()
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    typer.echo(one_line(f"error: {message}"), err=True)
    sys.exit(2)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _help_of(error: Any) -> str:
    """The command whose help explains a mistake."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "maquette"
    return f"maquette {' '.join(path.split()[1:])} --help".replace("  ", " ")


def _read_as_utf8() -> None:
    """Take arguments for UTF-8 and write UTF-8, whatever an old locale says.

    Under it Python turns the bytes of other letters into lone surrogates.
    """
    for index, argument in enumerate(sys.argv):
        try:
            sys.argv[index] = os.fsencode(argument).decode("utf-8")
        except UnicodeError:
            continue  # told where it is read
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def _at_work(opened: Any) -> Iterator[None]:
    """Be the run's only writer; who stops the work is told how to go on with it."""
    from maquette.common.files import sole_writer
    from maquette.common.runs.progress import say

    with sole_writer(opened.folder):
        try:
            yield
        except stopping.Stopped as stopped:
            place = shlex.quote(str(opened.folder))
            say(f"stopped; what is done is kept; to go on: maquette resume {place}")
            stopped.told = True
            raise


def _all_stages(opened: Any, redo: bool = False, on_failure: OnFailure = "stop") -> None:
    from maquette.coarse.train import run_coarse
    from maquette.common.guidance.prepare import verify_later
    from maquette.common.runs.failure import SEEDS, FailedError, next_seed
    from maquette.common.runs.progress import say
    from maquette.common.runs.stage import COARSE, FINE
    from maquette.fine.deliver import finish_export
    from maquette.fine.train import run_fine

    with _at_work(opened):
        verify_later(opened, FINE, COARSE)
        for attempt in range(SEEDS + 1):
            try:
                run_coarse(opened, redo, on_failure)
                run_fine(opened, redo, on_failure)
                break
            except FailedError as failed:
                if on_failure == "stop" or attempt == SEEDS:
                    raise
                opened, redo = next_seed(opened), True
                say(f"{failed.wrong}; beginning again with seed {opened.config.seed}")
        finish_export(opened)


if __name__ == "__main__":
    main()

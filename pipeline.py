"""The commands of maquette. Each says what it does; the work is in coarse/, fine/ and common/.

Nothing heavy is imported until a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import sys
import warnings
from typing import Annotated

import typer

from maquette.common.errors import UserError

# A disk that is full, over its quota or read-only: the user's to mend, and nothing is lost.
_DISK = {errno.ENOSPC, errno.EROFS, errno.EACCES, getattr(errno, "EDQUOT", errno.ENOSPC)}

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
Gpus = Annotated[
    int, typer.Option("--gpus", metavar="N", min=1, help="Share the views among N GPUs.")
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


@app.command()
def run(
    prompt: Prompt,
    config: ConfigFile = None,
    settings: Settings = None,
    prior: PriorName = None,
    loras: Loras = None,
    vram: Vram = None,
    seed: Seed = None,
    device: Device = None,
    out: Out = None,
    gpus: Gpus = 1,
) -> None:
    """Make a textured mesh: coarse stage, fine stage, export."""
    from maquette.common.begin import Choices, begin
    from maquette.common.launch import launch, on_gpus, without_gpus

    if on_gpus(gpus, device):
        launch(gpus, without_gpus(sys.argv[1:]))
        return

    choices = Choices(
        config, settings or (), prior, seed, device, out, loras=loras or (), vram=vram
    )
    _all_stages(_begun(lambda: begin(prompt, choices), device))


@app.command()
def coarse(
    prompt: Prompt,
    config: ConfigFile = None,
    settings: Settings = None,
    prior: PriorName = None,
    loras: Loras = None,
    vram: Vram = None,
    seed: Seed = None,
    device: Device = None,
    out: Out = None,
) -> None:
    """Train the coarse stage alone; `fine` goes on from it."""
    from maquette.common.begin import Choices, begin
    from maquette.common.files import sole_writer

    choices = Choices(
        config, settings or (), prior, seed, device, out, loras=loras or (), vram=vram
    )
    opened = begin(prompt, choices)
    from maquette.coarse.train import run_coarse  # what the command got wrong is told before

    with sole_writer(opened.folder):
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
    out: Out = None,
) -> None:
    """Refine a finished coarse stage; with other settings or another prompt, in a new run."""
    from maquette.common.begin import Choices, derive
    from maquette.common.files import sole_writer

    choices = Choices(None, settings or (), prior, None, device, out, loras=loras or (), vram=vram)
    opened = derive(run_folder, prompt, choices)
    from maquette.fine.train import run_fine

    with sole_writer(opened.folder):
        run_fine(opened)
    typer.echo(opened.folder)


@app.command()
def export(run_folder: RunFolder, faces: Faces = None, texture_size: TextureSize = None) -> None:
    """Write OBJ, MTL, PNG and GLB of a finished fine stage, and read them back."""
    from maquette.common.files import sole_writer
    from maquette.common.runs.folder import open_run
    from maquette.fine.deliver import run_export

    opened = open_run(run_folder)
    with sole_writer(opened.folder):
        run_export(opened, faces, texture_size)


@app.command()
def resume(run_folder: RunFolder, gpus: Gpus = 1) -> None:
    """Go on with a run from its last checkpoint, through all stages."""
    from maquette.common.launch import launch, on_gpus, without_gpus
    from maquette.common.runs.folder import open_run

    opened = open_run(run_folder)
    if on_gpus(gpus, opened.config.device):
        launch(gpus, without_gpus(sys.argv[1:]))
        return
    _all_stages(_begun(lambda: opened, opened.config.device))


@app.command()
def evaluate(run_folders: RunFolders, json_file: JsonFile = None) -> None:
    """Score runs against the toybox's truth."""
    from maquette.fine.evaluate import evaluate_runs

    evaluate_runs(run_folders, json_file)


@app.command()
def doctor() -> None:
    """Say which implementation runs for each part on this machine, and why."""
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
    out: Out = None,
) -> None:
    """Train the embedded prior, or go on with a training that was cut off."""
    from maquette.common.embedded.training.command import train_prior

    folder = train_prior(kind, out, minutes, images, device, seed, vae, begin, settings)
    typer.echo(folder)


def main() -> None:
    """The `maquette` command: a user's mistake ends in one line and exit code 2."""
    # numba tries three ways to run threads and tells of the one that this machine's library lacks.
    warnings.filterwarnings("ignore", message="The TBB threading layer")
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror}{place}: mend that, then go on with: maquette resume RUN")
    except RuntimeError as error:
        from maquette.common import launch, ranks

        if not ranks.lost(error):
            raise
        _fail("another process of the run has ended; its last checkpoint is kept", launch.LOST)


def _fail(message: str, code: int = 2) -> None:
    typer.echo(f"error: {' '.join(message.splitlines())}", err=True)
    sys.exit(code)


def _begun(begin, device: str | None):
    """The run that `begin` gives; of several processes at it the first one begins."""
    from maquette.common import ranks
    from maquette.common.runs.folder import open_run

    if ranks.join(device).count == 1:
        return begin()
    opened, folder, error = None, "", ""
    if ranks.now().first:
        try:
            opened = begin()
            folder = str(opened.folder)
        except UserError as wrong:
            error = str(wrong)
    folder, error = ranks.told((folder, error))
    if error:
        raise UserError(error)
    return opened or open_run(folder)


def _all_stages(opened) -> None:
    from maquette.coarse.train import run_coarse
    from maquette.common import ranks
    from maquette.common.files import sole_writer
    from maquette.fine.deliver import finish_export
    from maquette.fine.train import run_fine

    with sole_writer(opened.folder):
        run_coarse(opened)
        run_fine(opened)
        if ranks.now().first:
            finish_export(opened)
    ranks.leave()


if __name__ == "__main__":
    main()

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

# A disk that is full, over its quota or read-only, a file larger than it or the system's limits
# allow: the user's to mend, and nothing is lost.
_DISK = {
    *(errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EFBIG),
    getattr(errno, "EDQUOT", errno.ENOSPC),
}

app = typer.Typer(
    name="maquette",
    help="Text to 3D: a prompt in, a textured mesh out, in two stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Prompt = Annotated[str, typer.Argument(help="What to make, for example: a red mushroom.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]
RunOrPrompt = Annotated[
    str, typer.Argument(metavar="RUN", help="The folder of a run; with --mesh, the prompt.")
]
MeshFile = Annotated[
    str | None, typer.Option("--mesh", metavar="FILE", help="OBJ, GLB, PLY, STL, OFF or 3MF.")
]
FrontSide = Annotated[
    str | None, typer.Option("--front", metavar="AXIS", help="Where its front looks, such as +z.")
]
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
Out = Annotated[str | None, typer.Option("--out", metavar="FOLDER", help="The run's own folder.")]
NewPrompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="Refine with another prompt, in a new run."),
]
Faces = Annotated[int | None, typer.Option("--faces", metavar="N", help="Most faces to export.")]
TextureSize = Annotated[
    int | None, typer.Option("--texture-size", metavar="PX", help="Width of the texture.")
]
Formats = Annotated[
    str | None,
    typer.Option("--format", metavar="LIST", help="Of obj,glb,ply,stl,3mf,usdz."),
]
TargetProgram = Annotated[
    str | None,
    typer.Option("--target", metavar="NAME", help="blender, unity, unreal, godot, three or print."),
]
Height = Annotated[
    str | None, typer.Option("--height", metavar="LENGTH", help="Such as 12cm, 80mm or 3in.")
]
Up = Annotated[str | None, typer.Option("--up", metavar="AXIS", help="y or z.")]
PivotPlace = Annotated[
    str | None, typer.Option("--pivot", metavar="PLACE", help="origin, foot or centre.")
]
TextureFormat = Annotated[
    str | None, typer.Option("--texture-format", metavar="KIND", help="png, jpeg or webp.")
]
Quality = Annotated[
    int | None, typer.Option("--quality", metavar="Q", help="Of JPEG and WebP, 1 to 100.")
]
Lods = Annotated[int | None, typer.Option("--lods", metavar="N", help="Levels of detail.")]
NormalMap = Annotated[
    bool, typer.Option("--normal-map", help="A normal map from before decimation.")
]
KeepAll = Annotated[bool, typer.Option("--keep-all", help="Drop no small parts.")]
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
) -> None:
    """Make a textured mesh: coarse stage, fine stage, export."""
    from maquette.common.begin import Choices, begin

    choices = Choices(
        config, settings or (), prior, seed, device, out, loras=loras or (), vram=vram
    )
    _all_stages(begin(prompt, choices))


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
    run_folder: RunOrPrompt,
    prompt: NewPrompt = None,
    mesh: MeshFile = None,
    up: Up = None,
    front: FrontSide = None,
    config: ConfigFile = None,
    settings: Settings = None,
    prior: PriorName = None,
    loras: Loras = None,
    vram: Vram = None,
    seed: Seed = None,
    device: Device = None,
    out: Out = None,
) -> None:
    """Refine a finished coarse stage, or a mesh of your own: fine --mesh FILE PROMPT."""
    from maquette.common.begin import Choices, derive
    from maquette.common.files import sole_writer

    choices = Choices(
        config, settings or (), prior, seed, device, out, loras=loras or (), vram=vram
    )
    if mesh is not None:
        opened = _begun_with(mesh, run_folder, prompt, choices, False, up, front)
    elif config is not None or seed is not None or up is not None or front is not None:
        raise UserError("--config, --seed, --up and --front are for a new run: give --mesh as well")
    else:
        opened = derive(run_folder, prompt, choices)
    from maquette.fine.train import run_fine

    with sole_writer(opened.folder):
        run_fine(opened)
    typer.echo(opened.folder)


@app.command()
def texture(
    prompt: Prompt,
    mesh: MeshFile = None,
    up: Up = None,
    front: FrontSide = None,
    config: ConfigFile = None,
    settings: Settings = None,
    prior: PriorName = None,
    loras: Loras = None,
    vram: Vram = None,
    seed: Seed = None,
    device: Device = None,
    out: Out = None,
) -> None:
    """Paint a mesh of your own, which stays as it is: texture --mesh FILE PROMPT."""
    from maquette.common.begin import Choices

    choices = Choices(
        config, settings or (), prior, seed, device, out, loras=loras or (), vram=vram
    )
    if mesh is None:
        raise UserError("say which mesh to paint: maquette texture --mesh FILE PROMPT")
    _all_stages(_begun_with(mesh, prompt, None, choices, True, up, front))


@app.command()
def export(
    run_folder: RunFolder,
    faces: Faces = None,
    texture_size: TextureSize = None,
    formats: Formats = None,
    target: TargetProgram = None,
    height: Height = None,
    up: Up = None,
    pivot: PivotPlace = None,
    texture_format: TextureFormat = None,
    quality: Quality = None,
    lods: Lods = None,
    normal_map: NormalMap = False,
    keep_all: KeepAll = False,
) -> None:
    """Write the files of a finished fine stage, and read them back."""
    from maquette.common.files import sole_writer
    from maquette.common.runs.folder import open_run
    from maquette.fine.deliver import run_export

    options = {
        "faces": faces,
        "texture_size": texture_size,
        "formats": formats,
        "target": target,
        "height": height,
        "up": up,
        "pivot": pivot,
        "texture_format": texture_format,
        "quality": quality,
        "lods": lods,
        "normal_map": normal_map or None,
        "speck_share": 0.0 if keep_all else None,
    }
    opened = open_run(run_folder)
    with sole_writer(opened.folder):
        run_export(opened, options)


@app.command()
def resume(run_folder: RunFolder) -> None:
    """Go on with a run from its last checkpoint, through all stages."""
    from maquette.common.runs.folder import open_run

    _all_stages(open_run(run_folder))


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


def _fail(message: str) -> None:
    typer.echo(f"error: {' '.join(message.splitlines())}", err=True)
    sys.exit(2)


def _begun_with(mesh, prompt, other_prompt, choices, keep, up, front):
    """The run of a mesh and a prompt."""
    from maquette.common.begin import mesh_words, open_with_mesh, with_mesh

    if other_prompt is not None:
        raise UserError("with --mesh the prompt stands alone: maquette fine --mesh FILE PROMPT")
    told = mesh_words(mesh, keep, up, front)
    with_mesh(prompt, told, choices)  # what is wrong with the words is told before the mesh is read
    from maquette.fine.meshes.begin import adopt, look_at

    source, told = look_at(told)
    run = open_with_mesh(with_mesh(prompt, told, choices), choices.out)
    adopt(run, source)
    return run


def _all_stages(opened) -> None:
    from maquette.coarse.train import run_coarse
    from maquette.common.files import sole_writer
    from maquette.fine.deliver import finish_export
    from maquette.fine.train import run_fine

    with sole_writer(opened.folder):
        if opened.config.mesh is None:
            run_coarse(opened)
        run_fine(opened)
        finish_export(opened)


if __name__ == "__main__":
    main()

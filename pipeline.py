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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer

from maquette.common import stopping
from maquette.common.commands import many, shelf, ui, view
from maquette.common.commands.watched import watched
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
    help="Text or image to 3D: a prompt or a picture in, a textured mesh out, in two stages.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

Prompt = Annotated[
    str | None,
    typer.Argument(help="What to make, for example: a red mushroom.", show_default=False),
]
Images = Annotated[
    list[str] | None, typer.Option("--image", metavar="FILE", help="A picture of what to make.")
]
Elevation = Annotated[
    str | None,
    typer.Option(
        "--elevation", metavar="DEG", help="How far above the horizon its camera was, or auto."
    ),
]
Fovy = Annotated[
    float | None,
    typer.Option("--fovy", metavar="DEG", help="Vertical field of view of the picture's frame."),
]
DepthMap = Annotated[
    str | None, typer.Option("--depth", metavar="FILE", help="A depth map of it; near is bright.")
]
NormalMap = Annotated[
    str | None, typer.Option("--normal", metavar="FILE", help="A map of its normals.")
]
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
    str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
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
Gpus = Annotated[
    int, typer.Option("--gpus", metavar="N", min=1, help="Share the views among N GPUs.")
]
OnFailure = Literal["auto", "stop", "retry", "tell"]
Answer = Annotated[
    OnFailure,
    typer.Option(
        "--on-failure",
        help="stop in one line, retry (slower, other seeds), tell, or auto: tell of many fronts, "
        "stop at the rest.",
    ),
]
Out = Annotated[str | None, typer.Option("--out", metavar="FOLDER", help="The run's own folder.")]
Seeds = Annotated[
    int | None, typer.Option("--seeds", metavar="N", help="N runs of as many seeds, ranked.")
]
Clip = Annotated[
    str | None,
    typer.Option("--clip", metavar="FOLDER", help="Rank seeds by this CLIP model as well."),
]
Preset = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="fast, default or best.")
]
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
BakeNormals = Annotated[
    bool, typer.Option("--normal-map", help="A normal map from before decimation.")
]
Smooth = Annotated[bool, typer.Option("--smooth", help="No hard edges: one normal a vertex.")]
KeepAll = Annotated[bool, typer.Option("--keep-all", help="Drop no small parts.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the scores as JSON.")
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"maquette {version('maquette')}")
        except PackageNotFoundError:
            typer.echo("maquette, a checkout that isn't installed")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_version, is_eager=True, help="Tell the version."),
]


@app.callback()
def maquette(version: Version = False) -> None:
    """Text or image to 3D: a prompt or a picture in, a textured mesh out, in two stages."""


@app.command(epilog=ALL_WORDS)
@watched
def run(
    prompt: Prompt = None,
    images: Images = None,
    elevation: Elevation = None,
    fovy: Fovy = None,
    depth: DepthMap = None,
    normal: NormalMap = None,
    config: ConfigFile = None,
    settings: Settings = None,
    prior: PriorName = None,
    loras: Loras = None,
    vram: Vram = None,
    seed: Seed = None,
    device: Device = None,
    on_failure: Answer = "auto",
    threads: Threads = None,
    out: Out = None,
    preset: Preset = None,
    seeds: Seeds = None,
    clip: Clip = None,
    gpus: Gpus = 1,
) -> None:
    """Make a textured mesh of a prompt, a picture, or both: coarse stage, fine stage, export."""
    from maquette.common.begin import Choices, begin
    from maquette.common.launch import launch, on_gpus, without_gpus

    if on_gpus(gpus, device):
        launch(gpus, without_gpus(sys.argv[1:]))
        return

    settle(threads)
    choices = Choices(
        config, settings or (), prior, seed, device, out, loras or (), vram, preset, threads,
        images or (), elevation, fovy, depth, normal,
    )  # fmt: skip
    if seeds is not None:
        from maquette.common.many.seeds import run_seeds

        run_seeds(prompt or "", choices, seeds, clip)
        return
    begun = _begun(lambda: begin(prompt or "", choices), device)
    _all_stages(begun, on_failure=on_failure)


@app.command(epilog=ALL_WORDS)
@watched
def coarse(
    prompt: Prompt = None,
    images: Images = None,
    elevation: Elevation = None,
    fovy: Fovy = None,
    depth: DepthMap = None,
    normal: NormalMap = None,
    config: ConfigFile = None,
    settings: Settings = None,
    prior: PriorName = None,
    loras: Loras = None,
    vram: Vram = None,
    seed: Seed = None,
    device: Device = None,
    threads: Threads = None,
    out: Out = None,
    preset: Preset = None,
) -> None:
    """Train the coarse stage alone; `fine` goes on from it."""
    from maquette.common.begin import Choices, begin
    from maquette.common.runs.announce import announce
    from maquette.common.runs.progress import result
    from maquette.common.runs.stage import COARSE

    settle(threads)
    choices = Choices(
        config, settings or (), prior, seed, device, out, loras or (), vram, preset, threads,
        images or (), elevation, fovy, depth, normal,
    )  # fmt: skip
    opened = begin(prompt or "", choices)
    from maquette.coarse.train import run_coarse  # what the command got wrong is told before

    announce(opened, (COARSE,), exported=False)
    with _at_work(opened):
        run_coarse(opened)
    result(opened.folder)


@app.command()
@watched
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
    threads: Threads = None,
    out: Out = None,
    preset: Preset = None,
) -> None:
    """Refine a finished coarse stage, or a mesh of your own: fine --mesh FILE PROMPT."""
    from maquette.common.begin import Choices, derive
    from maquette.common.runs.announce import announce
    from maquette.common.runs.progress import result
    from maquette.common.runs.stage import FINE

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
        preset=preset,
        threads=threads,
    )
    if mesh is not None:
        opened = _begun_with(mesh, run_folder, prompt, choices, keep=False, up=up, front=front)
    elif any(given is not None for given in (config, seed, up, front, preset)):
        raise UserError(
            "--config, --seed, --preset, --up and --front are for a new run: give --mesh as well"
        )
    else:
        opened = derive(run_folder, prompt, choices)
    from maquette.fine.train import run_fine

    announce(opened, (FINE,), exported=False)
    with _at_work(opened):
        run_fine(opened)
    result(opened.folder)


@app.command()
@watched
def texture(
    prompt: Annotated[str, typer.Argument(help="What to paint, for example: a red mushroom.")],
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
    threads: Threads = None,
    out: Out = None,
    preset: Preset = None,
) -> None:
    """Paint a mesh of your own, which stays as it is: texture --mesh FILE PROMPT."""
    from maquette.common.begin import Choices

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
        preset=preset,
        threads=threads,
    )
    if mesh is None:
        raise UserError("say which mesh to paint: maquette texture --mesh FILE PROMPT")
    _all_stages(_begun_with(mesh, prompt, None, choices, keep=True, up=up, front=front))


@app.command()
@watched
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
    normal_map: BakeNormals = False,
    smooth: Smooth = False,
    keep_all: KeepAll = False,
    threads: Threads = None,
) -> None:
    """Write the files of a finished fine stage, and read them back."""
    from maquette.common.runs.folder import open_run

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
        "smooth": smooth or None,
        "speck_share": 0.0 if keep_all else None,
    }
    opened = open_run(run_folder)
    settle(threads or opened.threads)
    from maquette.fine.deliver import run_export

    with _at_work(opened):
        run_export(opened, options)


@app.command()
@watched
def resume(
    run_folder: RunFolder,
    coarse_steps: CoarseSteps = None,
    fine_steps: FineSteps = None,
    redo: Redo = False,
    on_failure: Answer = "auto",
    threads: Threads = None,
    gpus: Gpus = 1,
) -> None:
    """Go on with a run from its last checkpoint, through all stages; or with more steps."""
    from maquette.common.launch import launch, on_gpus, without_gpus
    from maquette.common.runs.folder import lengthened, open_run

    opened = open_run(run_folder)
    if on_gpus(gpus, opened.config.device):
        launch(gpus, without_gpus(sys.argv[1:]))
        return
    settle(threads or opened.threads)
    steps = {"coarse": coarse_steps, "fine": fine_steps}
    begun = _begun(lambda: lengthened(opened, steps), opened.config.device)
    _all_stages(begun, redo or coarse_steps is not None, on_failure)


@app.command("invert")
def invert_picture(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A picture of one object.")],
    prior: Annotated[
        str, typer.Option("--prior", metavar="NAME", help="The text model that learns the word.")
    ] = "sd15",
    word: Annotated[
        str, typer.Option("--word", metavar="WORD", help="What the word is written as.")
    ] = "<toy>",
    begin: Annotated[
        str, typer.Option("--begin", metavar="WORD", help="A known word to start from.")
    ] = "toy",
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Steps of training.")] = 3000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of all draws.")] = 0,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="Where the word is written.")
    ] = "learned.safetensors",
) -> None:
    """Teach a text model a word for a picture's object (textual inversion)."""
    settle(threads)
    from maquette.common.config.priors import PriorConfig
    from maquette.common.guidance.invert import Inversion, invert
    from maquette.common.runs.progress import result, stage_progress

    how = Inversion(word=word, begin=begin, steps=steps, seed=seed)
    with stage_progress("invert", steps) as meter:

        def tell(step: int, loss: float) -> None:
            meter.update(step, {"loss": loss})

        place = invert(image, PriorConfig(name=prior), out, how, device or "auto", tell)
    result(place)


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


@app.command("blend-priors")
def blend_priors(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="What a training began with.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="What came of it.")],
    out: Annotated[str, typer.Option("--out", metavar="FOLDER", help="Where the mean goes.")],
    share: Annotated[float, typer.Option("--share", metavar="S", help="Of the second.")] = 0.6,
) -> None:
    """Average the weights of two of the embedded prior's trainings, one begun with the other's."""
    settle(None)
    from maquette.common.embedded.training.command import blend_priors

    typer.echo(blend_priors(first, second, share, out))


shelf.register(app)
many.register(app)
view.register(app)
ui.register(app)


def main() -> None:
    """The `maquette` command: a user's mistake ends in one line and exit code 2."""
    # numba tries three ways to run threads and tells of the one that this machine's library lacks.
    warnings.filterwarnings("ignore", message="The TBB threading layer")
    # Without /dev/shm it has no lock among processes, which it needs where they share one start.
    warnings.filterwarnings("ignore", message="Could not obtain multiprocessing lock")
    # What MPS lacks, the CPU does; torch reads it when it is first imported.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
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
        # A file is written under another name first; its folder is what the user knows.
        named = str(error.filename or "")
        named = os.path.dirname(named) if named.endswith(".part") else named
        place = f" ({shown(named, 120)})" if named else ""
        _fail(f"{error.strerror}{place}: mend that, then go on with: maquette resume RUN")
    except (MemoryError, RuntimeError, ImportError) as error:
        from maquette.common import launch, ranks

        if ranks.lost(error):
            _fail("another process of the run has ended; its last checkpoint is kept", launch.LOST)
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
        told = _lower(message()).replace("Value error, ", "").rstrip(".")
        _fail(f"{told}; see: {_help_of(error)}")
    finally:
        stopping.unwatch()
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 2) -> None:
    from maquette.common.runs.progress import emit
    from maquette.common.runs.watching import watching

    line = one_line(f"error: {message}")
    if watching().output == "json":
        emit("error", message=line.removeprefix("error: "))
    typer.echo(line, err=True)
    sys.exit(code)


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


def _begun(begin: Callable[[], Any], device: str | None) -> Any:
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
    return opened or open_run(str(folder))


def _begun_with(
    mesh: str,
    prompt: str,
    other_prompt: str | None,
    choices: Any,
    keep: bool,
    up: str | None,
    front: str | None,
) -> Any:
    """The run of a mesh and a prompt."""
    from maquette.common.begin import mesh_words, open_with_mesh, with_mesh

    if other_prompt is not None:
        raise UserError("with --mesh the prompt stands alone: maquette fine --mesh FILE PROMPT")
    told = mesh_words(mesh, keep, up, front)
    with_mesh(prompt, told, choices)  # what is wrong with the words is told before the mesh is read
    from maquette.fine.meshes.begin import adopt, look_at

    source, told = look_at(told)
    run = open_with_mesh(with_mesh(prompt, told, choices), choices)
    adopt(run, source)
    return run


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


def _all_stages(opened: Any, redo: bool = False, on_failure: OnFailure = "auto") -> None:
    from maquette.coarse.train import run_coarse
    from maquette.common import ranks
    from maquette.common.guidance.prepare import verify_later
    from maquette.common.runs.announce import announce
    from maquette.common.runs.failure import SEEDS, FailedError, next_seed
    from maquette.common.runs.progress import say
    from maquette.common.runs.stage import COARSE, FINE
    from maquette.fine.deliver import finish_export
    from maquette.fine.train import run_fine

    stages = (COARSE, FINE) if opened.config.mesh is None else (FINE,)
    announce(opened, stages)
    with _at_work(opened):
        if opened.config.mesh is None:
            verify_later(opened, FINE, COARSE)
        for attempt in range(SEEDS + 1):
            try:
                if opened.config.mesh is None:
                    run_coarse(opened, redo, on_failure)
                run_fine(opened, redo, on_failure)
                break
            except FailedError as failed:
                if on_failure != "retry" or attempt == SEEDS or ranks.now().count > 1:
                    raise
                opened, redo = next_seed(opened), True
                say(f"{failed.wrong}; beginning again with seed {opened.config.seed}")
        if ranks.now().first:
            finish_export(opened)
    ranks.leave()


if __name__ == "__main__":
    main()

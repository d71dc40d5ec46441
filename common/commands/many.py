"""The command that makes many runs: `batch`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import UserError
from .watched import watched

File = Annotated[
    str, typer.Argument(metavar="FILE", help="prompts.txt, a prompt a line, or jobs.yaml.")
]
Out = Annotated[
    str | None, typer.Option("--out", metavar="FOLDER", help="The folder for all the runs.")
]
ConfigFile = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="A YAML file, or the name of a shipped one."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of all; repeatable."),
]
PriorName = Annotated[str | None, typer.Option("--prior", metavar="NAME", help="The prior.")]
Preset = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="fast, default or best.")
]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="Of every run.")]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="A Ray cluster: auto, or ray://HOST:PORT."),
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Jobs at a time.")]
Cpus = Annotated[float | None, typer.Option("--cpus", metavar="N", help="Cores a job.")]
Gpus = Annotated[
    float | None, typer.Option("--gpus", metavar="N", help="Cards a job, or 0.25 of one.")
]
Memory = Annotated[float | None, typer.Option("--memory", metavar="GIB", help="Memory a job.")]
Retries = Annotated[
    int, typer.Option("--retries", metavar="N", help="How often a failed job is tried again.")
]


def register(app: typer.Typer) -> None:
    """Add the command to a program."""
    app.command()(watched(batch))


def batch(
    file: File,
    out: Out = None,
    config: ConfigFile = None,
    settings: Settings = None,
    prior: PriorName = None,
    preset: Preset = None,
    device: Device = None,
    address: Address = None,
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    memory: Memory = None,
    retries: Retries = 2,
) -> None:
    """Make many runs over Ray; the same command again goes on where it stopped."""
    from pathlib import Path

    from ..begin import Choices
    from ..many.jobs import read_jobs

    if retries < 0:
        raise UserError(f"--retries: expected 0 or more, got {retries}")
    root = Path(out) if out is not None else Path("runs") / Path(file).stem
    common = Choices(config, settings or (), prior, None, device, preset=preset)
    jobs = read_jobs(file, root, common)
    from ..many.batch import run_batch
    from ..many.resources import Ask

    failed = run_batch(jobs, root, Ask(workers, cpus, gpus, memory), address, retries)
    if failed:
        raise typer.Exit(1)

"""Train both networks of the embedded prior further on a GPU that is at hand for minutes.

    python benchmarks/train_on_gpu.py --out $OUT               # pixel 4 minutes, latent 3
    python benchmarks/train_on_gpu.py --out /tmp/x --dry       # both tiny, on the CPU

Begins with the program's own weights, or those of `--begin-pixel` and `--begin-latent`. All cores
but one render; every view serves eight steps. The newest weights lie in OUT/KIND/model from the
first minute on, in shards of under 16 MiB, so that a machine that is taken away costs a minute at
most. Prints the errors of both before and after.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import torch
from kept import failing_in_one_line
from knowledge import denoised, true_views
from prior import GROUPS, SHARES, decibels, drawn
from results import table

from maquette.common.config.priors import PriorConfig
from maquette.common.embedded.door import load
from maquette.common.embedded.names import EMBEDDED
from maquette.common.embedded.training.command import train_prior

FAST = [
    *("precision=bfloat16", "channels_last=true", "compile=true", "log_every=100"),
    *("reuse=8", "memory=32768", "canonical_share=0.9", "caption_dropout=0.05"),
    *("named_views=0.1", "warmup=500", "checkpoint_minutes=1", "publish_minutes=1"),
]
KINDS = {  # the latent one learns to paint a surface that it is told, and keeps the rest
    "pixel": ["batch=512", "rate=0.0015", "noise_skew=1.0", "surface_share=0.2"],
    "latent": [
        *("batch=256", "rate=0.001", "surface_share=0.6", "patterned_share=0.75"),
        *("noise_skew=1.0", "teacher=toybox-latent"),
    ],
}
TINY = [
    *("text_width=16", "text_layers=1", "eval_views=2", "sample_steps=1", "instances=2"),
    *("batch=4", "reuse=2", "memory=8", "channels_last=true", "checkpoint_minutes=0"),
]
TINY_KINDS = {
    "pixel": ["resolution=16", "widths=[8, 16]"],
    "latent": ["resolution=64", "widths=[8, 16]"],
}
VIEWS = 32


def main() -> None:
    """Train, and tell what it was good for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs=2, default=(4.0, 3.0))
    parser.add_argument("--begin-pixel", default=str(EMBEDDED["toybox-pixel"]))
    parser.add_argument("--begin-latent", default=str(EMBEDDED["toybox-latent"]))
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU")
    options = parser.parse_args()
    rows: list[list[str]] = []
    for kind, minutes in zip(KINDS, options.minutes, strict=True):
        begin = getattr(options, f"begin_{kind}")
        with failing_in_one_line(kind):
            began = time.monotonic()
            model = trained(kind, minutes, begin, options)
            seconds = time.monotonic() - began
            views = 2 if options.dry else VIEWS
            if not options.dry:
                rows.append(errors(kind, "before", begin, views))
            rows.append(errors(kind, f"{seconds:.0f} s", str(model), views))
        shutil.rmtree(options.out / kind / "checkpoints", ignore_errors=True)
        print(table(["network", *heads()], rows), flush=True)


def trained(kind: str, minutes: float, begin: str, options: argparse.Namespace) -> Path:
    """The diffusers folder of a network that was trained on."""
    vae = options.begin_latent if kind == "latent" else None
    out = str(options.out / kind)
    if options.dry:
        settings = [*TINY, *TINY_KINDS[kind], *options.settings]
        return train_prior(kind, out, images=8, device="cpu", vae=vae, settings=settings)
    settings = [*FAST, *KINDS[kind], *options.settings]
    return train_prior(kind, out, minutes, device="cuda", vae=vae, begin=begin, settings=settings)


def heads() -> list[str]:
    """The columns of the table of errors."""
    return [f"{group} {share:g}" for group in GROUPS for share in SHARES[-3:]]


def errors(kind: str, name: str, folder: str, count: int) -> list[str]:
    """A row of PSNR at high noise."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prior = load(PriorConfig(name=folder), device)
    cells = [f"{kind}, {name}"]
    for held_out, told in GROUPS.values():
        views = drawn(count, held_out)
        images = true_views(views, prior.resolution).to(device)
        cells += [f"{decibels(*denoised(prior, images, views, s, told)):.2f}" for s in SHARES[-3:]]
    return cells


if __name__ == "__main__":
    main()

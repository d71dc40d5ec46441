"""What memory layouts cost the embedded prior, and what one call saves the exact one, on the CPU.

    python benchmarks/embedded.py

The network and the autoencoder compute in bfloat16 where the CPU has it, and take their tensors
plain (NCHW) or channels last (NHWC); the results are the same. The variants of a row take turns,
and the best of several calls of each counts; compare the ratios rather than the times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from results import table, write_section
from timing import best_in_turns

from maquette.common.config.priors import PriorConfig
from maquette.common.embedded.door import load
from maquette.common.embedded.names import EXACT_RESOLUTIONS
from maquette.common.guidance.critic import LoraCritic
from maquette.common.losses import CriticConfig
from maquette.common.priors.base import Condition
from maquette.common.priors.pretrained import PretrainedPrior, encode_latents
from maquette.common.scene.cameras import orbit
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import photograph

CAPTION = "a red mushroom"
VIEWS = 2
LAYOUTS = {"plain": torch.contiguous_format, "channels last": torch.channels_last}


def main() -> None:
    """Time, print, write."""
    rows = [
        *(denoiser_row(kind) for kind in ("pixel", "latent")),
        critic_row(),
        encoder_row(),
        exact_row(),
    ]
    header = ["what", "first", "second", "milliseconds", "first / second"]
    body = f"{VIEWS} views; the best of several calls in turns.\n\n{table(header, rows)}"
    print(body)
    write_section("embedded.py", body)


def compared(what: str, variants: dict[str, Callable[[], object]]) -> list[str]:
    """A row of the table: two variants, their times and ratio."""
    first, second = (times := best_in_turns(variants)).values()
    return [what, *times, f"{first:.0f} and {second:.0f}", f"{first / second:.2f}"]


def embedded(kind: str, layout: torch.memory_format) -> PretrainedPrior:
    """The embedded prior with its network's weights in a layout."""
    prior = load(PriorConfig(name=f"toybox-{kind}"))
    prior.denoiser.to(memory_format=layout)
    return prior


def denoiser_row(kind: str) -> list[str]:
    """One guided call, forward: conditional and empty rows together."""

    def guided(prior: PretrainedPrior) -> Callable[[], object]:
        text = prior.encode_text([CAPTION] * VIEWS + [""] * VIEWS)
        x = torch.randn(2 * VIEWS, *prior.latent_shape)
        t = torch.full((2 * VIEWS,), 500)
        condition = Condition(text, orbit(2 * VIEWS))
        return lambda: prior.predict_noise(x, t, condition)

    variants = {name: guided(embedded(kind, layout)) for name, layout in LAYOUTS.items()}
    return compared(f"{kind} network, guided", variants)


def critic_row() -> list[str]:
    """One update of VSD's critic, forward and back through the pixel network."""

    def update(prior: PretrainedPrior) -> Callable[[], object]:
        critic = LoraCritic(prior, CriticConfig())
        cameras = orbit(VIEWS)
        condition = Condition(prior.encode_text([CAPTION] * VIEWS), cameras)
        x = torch.randn(VIEWS, *prior.latent_shape)
        return lambda: critic.update(x, condition, cameras, None)

    variants = {name: update(embedded("pixel", layout)) for name, layout in LAYOUTS.items()}
    return compared("update of VSD's critic", variants)


def encoder_row() -> list[str]:
    """The autoencoder's encoder at 512 px, there and back."""
    prior = load(PriorConfig(name="toybox-latent"))

    def there_and_back(layout: torch.memory_format) -> Callable[[], object]:
        pixels = torch.rand(VIEWS, 3, prior.resolution, prior.resolution) * 2 - 1
        pixels = pixels.to(memory_format=layout).requires_grad_()

        def call() -> None:
            with prior.computing():
                encode_latents(prior.vae, pixels).square().sum().backward()

        return call

    variants = {name: there_and_back(layout) for name, layout in reversed(LAYOUTS.items())}
    return compared("encoder at 512 px, there and back", variants)


def exact_row() -> list[str]:
    """The exact prior's photographs of one toy at 64 px, one call for all cameras or one each."""
    size = EXACT_RESOLUTIONS["pixel"]
    toy, cameras = build(CAPTION), orbit(VIEWS)
    variants = {
        "one by one": lambda: [photograph(toy, cameras[i : i + 1], size) for i in range(VIEWS)],
        "together": lambda: photograph(toy, cameras, size),
    }
    return compared(f"exact prior's views at {size} px", variants)


if __name__ == "__main__":
    main()

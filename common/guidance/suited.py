"""Which of the shipped configurations suit the priors that were chosen, stage by stage.

No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..config.models import RunConfig
from ..config.priors import PriorConfig
from ..config.reading import DEFAULT_CONFIG, Beneath
from ..embedded.door import find, knows_toybox
from ..embedded.names import EMBEDDED, EXACT, TOYBOX, for_space
from ..errors import UserError, one_line
from ..priors.location import Family, Location, family_of
from ..runs.stage import COARSE, FINE
from .choose import judges_of, part_config

PAIR = "magic3d-if-sd"
"""Made for a pixel model in the coarse stage and Stable Diffusion in the fine one."""
SUITED: Mapping[str, str] = {
    EXACT: "exact",
    **dict.fromkeys((TOYBOX, *EMBEDDED), DEFAULT_CONFIG),
    **dict.fromkeys(("sd15", "sd21-base", "sd21"), "magic3d-sd15"),
    "sdxl": "sdxl",
    **dict.fromkeys(("sd3", "sd35-medium", "sd35-large"), "sd3"),
    **dict.fromkeys(("flux-dev", "flux-schnell"), "flux"),
    **dict.fromkeys(("zero123", "zero123-xl"), "zero123"),
    "stable-zero123": "stable-zero123",
    "mvdream": "mvdream",
}
"""The configuration that is made for a prior's name, where it can guide both stages."""
FAMILY_SUITED: Mapping[Family, str] = {
    "pixel": PAIR,
    "sd": "magic3d-sd15",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux",
    "zero123": "zero123",
    "mvdream": "mvdream",
}
"""The configuration that is made for models of a family."""


def suited_to(coarse: PriorConfig, fine: PriorConfig) -> Beneath | None:
    """The shipped configurations that suit the stages' priors; None is the default one for both.

    One for both, or one for each where they are of two families; a pixel model in the coarse stage
    and Stable Diffusion in the fine one are Magic3D's pair. Raises UserError for a model that isn't
    there.
    """
    names = suited_to_one(coarse), suited_to_one(fine)
    if names == (PAIR, "magic3d-sd15"):
        return PAIR
    if names[0] != names[1]:
        return names
    return None if names[0] == DEFAULT_CONFIG else names[0]


def suited_to_one(prior: PriorConfig) -> str:
    """The shipped configuration that suits a prior. Raises UserError for one that isn't there."""
    if prior.name in SUITED:
        return SUITED[prior.name]
    location = find(prior)
    if knows_toybox(location):
        return DEFAULT_CONFIG
    return FAMILY_SUITED[family_of(location.index, location.source)]


def told(suited: Beneath, config: RunConfig) -> str:
    """One line on which configuration was chosen for a run's priors."""
    coarse, fine = (one_line(p.name, 60) for p in (config.coarse.prior, config.fine.prior))
    if isinstance(suited, str):
        return f"configuration: {suited}, made for models like {coarse}; --config chooses another"
    return (
        f"configuration: the coarse stage's of {suited[0]}, made for models like {coarse}, and the "
        f"fine stage's of {suited[1]}, for {fine}; --config chooses another"
    )


def enlarged(config: RunConfig) -> str | None:
    """What is told of a coarse stage whose views a larger model sees enlarged, if it has one.

    The gradient reaches every ray all the same, but of what the model would paint into its pixels
    nothing smaller than the stage's arrives.
    """
    part = config.coarse
    if config.mesh is not None or "prior" not in judges_of(part):
        return None
    if part.prior.name == EXACT:
        return None
    location = find(for_space(part.prior, COARSE.space))
    sees = part.prior.resolution or _sees(location)
    if sees is None or sees < 2 * part.resolution:
        return None
    return (
        f"the coarse stage renders {part.resolution} px, enlarged to the {sees} px that "
        f"{one_line(part.prior.name, 80)} sees: shape comes of it, detail doesn't"
    )


def _sees(location: Location) -> int | None:
    """The pixels, height and width, that a model with a VAE was trained on, if its files say it."""
    if "vae" not in location.index:
        return None
    name = "transformer" if "transformer" in location.index else "unet"
    try:
        size = part_config(location, name).get("sample_size")
        blocks = part_config(location, "vae").get("block_out_channels")
    except UserError:
        return None  # not fetched yet and the hub is far: a remark isn't worth a failure
    if not isinstance(size, int) or not isinstance(blocks, list):
        return None
    return size * 2 ** (len(blocks) - 1)


def untold(config: RunConfig) -> str | None:
    """What is told of a fine stage that paints by a toybox's prior that isn't told the camera.

    Such a prior isn't told the surface either, so that almost pure noise says little of colours.
    """
    part = config.fine
    if part.paint_from is None or part.prior.tell_camera or "prior" not in judges_of(part):
        return None
    if part.prior.name == EXACT or not knows_toybox(find(for_space(part.prior, FINE.space))):
        return None
    return (
        f"fine.paint_from={part.paint_from} decides colours at noise levels for a prior that is "
        "told the camera; --config blind has those for one that isn't"
    )

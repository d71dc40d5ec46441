"""The distillation losses, one file each; `AnyLoss` is what a configuration may choose."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from .base import Distillation, Gradient, WeightKind, weight
from .csd import CSD
from .hifa import HiFA
from .ism import ISM
from .nfsd import NFSD
from .recon import Reconstruction
from .sdi import SDI
from .sds import SDS
from .sjc import SJC
from .vsd import VSD, CriticConfig

LossName = Literal["sds", "sjc", "vsd", "nfsd", "csd", "ism", "sdi", "hifa", "recon"]
LOSSES: dict[str, type[Distillation]] = {
    kind.model_fields["loss"].default: kind
    for kind in (SDS, SJC, VSD, NFSD, CSD, ISM, SDI, HiFA, Reconstruction)
}
assert tuple(LOSSES) == get_args(LossName)


def _named(values: Any) -> Any:
    """Options that name no loss are those of SDS."""
    if isinstance(values, dict):
        return {"loss": "sds", **{k: v for k, v in values.items() if (k, v) != ("loss", None)}}
    return values


AnyLoss = Annotated[
    Annotated[
        SDS | SJC | VSD | NFSD | CSD | ISM | SDI | HiFA | Reconstruction,
        Field(discriminator="loss"),
    ],
    BeforeValidator(_named),
]

__all__ = [
    "CSD",
    "ISM",
    "LOSSES",
    "NFSD",
    "SDI",
    "SDS",
    "SJC",
    "VSD",
    "AnyLoss",
    "CriticConfig",
    "Distillation",
    "Gradient",
    "HiFA",
    "LossName",
    "Reconstruction",
    "WeightKind",
    "weight",
]

"""Views of one object that a network denoises together though it was not trained so."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from maquette.common.config.priors import PriorConfig
from maquette.common.errors import UserError
from maquette.common.priors.base import Condition
from maquette.common.priors.joint_views import apart
from maquette.common.priors.loading import load_prior
from maquette.common.priors.pretrained import PretrainedPrior
from tests.reference.tiny_models import Family, build, build_mvdream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sd15", tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="module")
def plain(folder: Path) -> PretrainedPrior:
    return load_prior(PriorConfig(name=str(folder)))


@pytest.fixture(scope="module")
def joint(folder: Path) -> PretrainedPrior:
    return load_prior(PriorConfig(name=str(folder), joint_views=2))


def asked(prior: PretrainedPrior, x_t: Tensor) -> Tensor:
    text = prior.encode_text(["a red chair"]).select([0] * len(x_t))
    return prior.predict_noise(x_t, torch.full((len(x_t),), 500), Condition(text))


def views(prior: PretrainedPrior, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, *prior.latent_shape, generator=generator)


def test_views_of_a_group_see_each_other_and_no_others(joint: PretrainedPrior) -> None:
    x_t = views(joint, 4)
    before = asked(joint, x_t)
    changed = x_t.clone()
    changed[1] += 1.0
    moved = (asked(joint, changed) - before).abs().flatten(1).amax(dim=1)
    assert joint.group == 2
    assert (moved[:2] > 1e-5).all()
    assert (moved[2:] < 1e-6).all()


def test_a_view_beside_its_own_likeness_is_as_if_alone(
    plain: PretrainedPrior, joint: PretrainedPrior
) -> None:
    """A softmax over every key twice weighs the values as over each once."""
    x_t = views(plain, 1)
    found, wanted = asked(joint, torch.cat([x_t, x_t])), asked(plain, x_t)
    torch.testing.assert_close(found, wanted.expand_as(found), atol=1e-5, rtol=0)


def test_apart_each_is_denoised_by_itself(plain: PretrainedPrior, joint: PretrainedPrior) -> None:
    x_t = views(plain, 3)
    wanted = asked(plain, x_t)
    with apart(joint):
        assert joint.group == 1
        torch.testing.assert_close(asked(joint, x_t), wanted, atol=1e-6, rtol=0)
    assert joint.group == 2
    assert float((asked(joint, x_t[:2]) - wanted[:2]).abs().max()) > 1e-5


@pytest.mark.parametrize("family", ["flux", "mvdream"])
def test_who_can_t_is_refused_in_one_line(family: str, tmp_path: Path) -> None:
    if family == "mvdream":
        model = build_mvdream(tmp_path / family)
    else:
        model = build(cast(Family, family), tmp_path / family)
    with pytest.raises(UserError, match=r"joint_views: .* leave it at 1") as caught:
        load_prior(PriorConfig(name=str(model), joint_views=2))
    assert "\n" not in str(caught.value)

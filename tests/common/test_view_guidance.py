"""Guidance by the view's words, shared noises, ESD's entropy: each against its closed form."""

from __future__ import annotations

import pytest
import torch

from maquette.common.config.models import FineConfig
from maquette.common.config.prompts import PromptConfig
from maquette.common.errors import UserError
from maquette.common.guidance.ask import Ask
from maquette.common.guidance.choose import check_view_words
from maquette.common.guidance.conditions import Rows, TextConditioner
from maquette.common.guidance.noises import Noises
from maquette.common.guidance.prompts import ViewPrompts
from maquette.common.losses import SDS, VSD
from maquette.common.priors.base import Condition
from maquette.common.priors.noise import cosine_schedule
from maquette.common.runs.stage import FINE
from maquette.common.scene.cameras import orbit
from tests.reference.closed_form import GaussianPrior, gaussian_denoise

SCHEDULE = cosine_schedule(200)
V = 0.3


def number(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1), value, dtype=torch.float64)


MEANS = {"": 0.0, "cat": 1.0, "cat, front view": 1.4, "cat, back view": 0.5}
MEANS |= {"cat, side view": 0.9, "cat, overhead view": 1.1}
PRIOR = GaussianPrior({text: (number(mean), V) for text, mean in MEANS.items()}, SCHEDULE)


def rows_of(config: PromptConfig, count: int = 2) -> Rows:
    prompts = ViewPrompts.encode(PRIOR, "cat", config)
    return TextConditioner(prompts, tell_camera=False).rows(orbit(count))


def test_the_views_words_are_guided_on_their_own() -> None:
    """e = e_0 + s (e_y - e_0) + s v (e_y - e_y'), with linear e it is a shift of the mean."""
    rows, s, v = rows_of(PromptConfig(view_guidance=1.5)), 2.0, 1.5
    t = torch.tensor([60, 140])
    x_t = torch.tensor([0.2, -0.7], dtype=torch.float64).reshape(2, 1, 1, 1)
    found = Ask(PRIOR, rows).guided(x_t, t, s)
    alpha, sigma = (level.double() for level in SCHEDULE.at(t))
    own = torch.tensor([MEANS["cat, front view"], MEANS["cat, back view"]]).double()
    mean = (s * own + s * v * (own - MEANS["cat"])).reshape(2, 1, 1, 1)
    torch.testing.assert_close(found, gaussian_denoise(x_t, alpha, sigma, mean, V))


def test_sds_then_rests_where_the_words_point() -> None:
    """Its fixed point is the shifted mean: front and back end farther apart than their own."""
    ends = {}
    for v in (0.0, 1.0):
        rows = rows_of(PromptConfig(view_guidance=v))
        ask, loss = Ask(PRIOR, rows, scale=1.0, kind="signal"), SDS(weight="signal")
        x = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
        for step in range(400):
            t = torch.full((2,), 40 + step % 100)
            x = x - 0.2 * loss.gradient(x, x, t, torch.zeros_like(x), ask).x
        ends[v] = x.flatten().tolist()
    assert ends[0.0] == pytest.approx([1.4, 0.5], abs=1e-3)
    assert ends[1.0] == pytest.approx([1.8, 0.0], abs=1e-3)


def test_without_it_nothing_is_asked_more() -> None:
    prompts = ViewPrompts.encode(PRIOR, "cat", PromptConfig())
    assert prompts.plain is None
    assert rows_of(PromptConfig()).viewless is None


def test_it_needs_words_for_the_view() -> None:
    with pytest.raises(ValueError, match="view_guidance needs words"):
        PromptConfig(view_guidance=1.0, view_dependent=False)
    with pytest.raises(UserError, match=r"text\.view_guidance needs texts that differ"):
        check_view_words(FineConfig(text=PromptConfig(view_guidance=1.0)).text, True, FINE)
    check_view_words(PromptConfig(view_guidance=1.0), False, FINE)


def test_noises_are_shared_as_asked() -> None:
    shape = torch.Size((3, 2, 4, 4))
    torch.manual_seed(9)
    own, step, run = Noises("view"), Noises("step"), Noises("run")
    a = own(shape)
    assert not torch.equal(a[0], a[1])
    first, second = step(shape), step(shape)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first, second)
    before = torch.get_rng_state()
    assert torch.equal(run(shape), run(shape))
    assert torch.equal(run(shape)[0], run(torch.Size((1, 2, 4, 4)))[0])
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(9)
    assert torch.equal(Noises("view")(shape), a), "one noise a view draws as it always did"
    torch.manual_seed(9)
    resumed = Noises("run")
    torch.randn(5)
    assert torch.equal(resumed(shape), run(shape))


def critics(x: torch.Tensor, noise: torch.Tensor) -> Ask:
    """Views x at one step: told the camera a critic knows each one, untold their Gaussian alone."""
    mean, var = x.mean(), x.var(unbiased=False)

    def untold(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (level.to(x_t) for level in SCHEDULE.at(t))
        return gaussian_denoise(x_t, alpha, sigma, mean, var)

    condition = Condition(PRIOR.encode_text(["cat"] * len(x)))
    empty = Condition(PRIOR.encode_text([""] * len(x)))
    return Ask(
        PRIOR, Rows(condition, empty), 1.0, "signal",
        critic=lambda x_t, t: noise, untold_critic=untold,
    )  # fmt: skip


def test_entropy_mixes_what_the_critic_says_told_and_untold() -> None:
    x = torch.tensor([0.2, 0.9], dtype=torch.float64).reshape(2, 1, 1, 1)
    t, noise = torch.tensor([50, 120]), torch.full_like(x, 0.4)
    ends = [VSD(entropy=e).gradient(x, x, t, noise, critics(x, noise)).x for e in (0.0, 0.25, 1.0)]
    torch.testing.assert_close(ends[1], 0.75 * ends[0] + 0.25 * ends[2])
    with pytest.raises(ValueError, match="untold_critic: ESD needs"):
        Ask(PRIOR, critics(x, noise).rows, 1.0).untold_critic_noise(x, t)


@pytest.mark.parametrize(("entropy", "spread"), [(0.0, 0.0), (1.0, V**0.5)])
def test_entropy_keeps_views_as_unlike_as_the_prior_has_them(entropy: float, spread: float) -> None:
    """VSD of one scene rests with all views at the mode; ESD with the prior's own spread."""
    x = torch.linspace(-0.2, 0.6, 8, dtype=torch.float64).reshape(8, 1, 1, 1)
    g, loss = torch.Generator().manual_seed(0), VSD(entropy=entropy, weight="signal")
    for step in range(600):
        t = torch.full((8,), 60 + step % 60)
        noise = torch.randn(x.shape, generator=g, dtype=torch.float64)
        noise = torch.cat([noise[:4], -noise[:4]])
        x = x - 0.05 * loss.gradient(x, x, t, noise, critics(x, noise)).x
    assert float(x.mean()) == pytest.approx(MEANS["cat"], abs=0.1)
    assert float(x.std(unbiased=False)) == pytest.approx(spread, abs=0.2)

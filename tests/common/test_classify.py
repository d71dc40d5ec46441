"""What a prior takes a view for, on priors whose answer is known."""

from __future__ import annotations

import pytest
import torch

from maquette.common.guidance.classify import Opinion, noise_errors, opinion
from maquette.common.priors.base import Condition
from maquette.common.priors.noise import cosine_schedule
from tests.reference.closed_form import FiniteSetPrior, GaussianPrior

SCHEDULE = cosine_schedule(200)
FRONT, BACK = torch.ones(1, 2, 2), -torch.ones(1, 2, 2)
V = 0.2


def conditions(prior: GaussianPrior | FiniteSetPrior, count: int, *texts: str) -> list[Condition]:
    return [Condition(prior.encode_text([text] * count)) for text in texts]


def gaussian() -> GaussianPrior:
    texts = {"front": (FRONT, V), "back": (BACK, V), "": (0.0 * FRONT, 1.0 + V)}
    return GaussianPrior(texts, SCHEDULE)


def test_errors_are_the_formula_of_gaussian_views() -> None:
    prior, share = gaussian(), 0.4
    g = torch.Generator().manual_seed(1)
    x, noise = torch.stack([FRONT, BACK, 0.3 * FRONT]), torch.randn(3, 1, 2, 2, generator=g)
    found = noise_errors(prior, x, noise, share, conditions(prior, 3, "front", "back"))
    alpha, sigma = (level[80] for level in (SCHEDULE.alpha, SCHEDULE.sigma))
    for row, mean in enumerate((FRONT, BACK)):
        eps = sigma * (alpha * (x - mean) + sigma * noise) / (alpha**2 * V + sigma**2)
        wanted = (eps - noise).square().flatten(1).mean(dim=1)
        torch.testing.assert_close(found[row], wanted)


def test_a_view_is_taken_for_what_it_shows() -> None:
    prior = FiniteSetPrior({"front": FRONT[None], "back": BACK[None]}, SCHEDULE)
    x = torch.stack([FRONT, BACK, BACK, FRONT])
    seen = opinion(prior, x, conditions(prior, 4, "front", "back"), (0.5, 0.7), draws=2)
    assert seen.errors.shape == (4, 2, 4)
    assert seen.likeliest().tolist() == [0, 1, 1, 0]
    assert (seen.evidence(0, 1) > 2.0).tolist() == [True, False, False, True]
    torch.testing.assert_close(seen.evidence(0, 1), -seen.evidence(1, 0))


def test_what_lies_between_two_views_has_no_evidence() -> None:
    prior = gaussian()
    x = torch.zeros(6, 1, 2, 2)
    seen = opinion(prior, x, conditions(prior, 6, "front", "back"), (0.4, 0.6, 0.8), draws=8)
    assert float(seen.evidence(0, 1).abs().median()) < 2.0


def test_evidence_is_the_paired_t_value() -> None:
    margins = torch.tensor([0.1, 0.3, 0.2, 0.6])
    errors = torch.stack([torch.zeros(4), margins], dim=1).exp()[..., None]
    expected = margins.mean() / (margins.std() / 2.0)
    found = Opinion(errors).evidence(0, 1)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_evidence_without_spread() -> None:
    same = Opinion(torch.ones(3, 2, 1))
    assert float(same.evidence(0, 1)) == 0.0
    sure = Opinion(torch.tensor([[[1.0], [2.0]]] * 3))
    assert float(sure.evidence(0, 1)) == float("inf")


def test_an_opinion_leaves_the_runs_random_numbers_alone() -> None:
    prior = gaussian()
    told = conditions(prior, 2, "front", "back")
    x = torch.stack([FRONT, BACK])
    before = torch.get_rng_state()
    first = opinion(prior, x, told, (0.5,), seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.errors, opinion(prior, x, told, (0.5,), seed=3).errors)
    assert not torch.equal(first.errors, opinion(prior, x, told, (0.5,), seed=4).errors)


def test_large_batches_are_asked_in_parts() -> None:
    prior = gaussian()
    x, noise = torch.randn(40, 1, 2, 2), torch.randn(40, 1, 2, 2)
    whole = noise_errors(prior, x, noise, 0.5, conditions(prior, 40, "front", "back"))
    one = noise_errors(prior, x[37:38], noise[37:38], 0.5, conditions(prior, 1, "front", "back"))
    torch.testing.assert_close(whole[:, 37:38], one)


def test_wrong_row_counts_are_told() -> None:
    prior = gaussian()
    with pytest.raises(ValueError, match="expected 2 rows, got 3"):
        noise_errors(
            prior,
            torch.zeros(2, 1, 2, 2),
            torch.zeros(2, 1, 2, 2),
            0.5,
            conditions(prior, 3, "front"),
        )

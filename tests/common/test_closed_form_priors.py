"""The closed-form priors against densities differentiated in float64 and slow loops."""

import math

import pytest
import torch

from maquette.common.embedded.exact import posterior_mean
from maquette.common.errors import UserError
from maquette.common.priors.base import Condition
from maquette.common.priors.noise import cosine_schedule
from tests.reference.closed_form import (
    FiniteSetPrior,
    GaussianPrior,
    gaussian_denoise,
    noise_from_mean,
)

A, S = torch.tensor([[0.8], [0.6]]).double(), torch.tensor([[0.6], [0.8]]).double()


def test_gaussian_noise_is_the_score_of_the_noised_density() -> None:
    x_t = torch.tensor([[0.7, -1.2], [2.0, 0.1]]).double().requires_grad_()
    mean, var = torch.tensor([0.5, -0.3]).double(), torch.tensor([0.2, 1.7]).double()
    log_density = torch.distributions.Normal(A * mean, (A**2 * var + S**2).sqrt()).log_prob(x_t)
    (score,) = torch.autograd.grad(log_density.sum(), x_t)
    torch.testing.assert_close(gaussian_denoise(x_t.detach(), A, S, mean, var), -S * score)


def test_posterior_mean_equals_the_slow_loop() -> None:
    g = torch.Generator().manual_seed(0)
    x_t = torch.randn(3, 2, 4, 4, generator=g)
    candidates = torch.randn(3, 5, 2, 4, 4, generator=g)
    alpha, sigma = (
        torch.rand(2, 3, 1, 1, 1, generator=g) + torch.tensor([0.3, 1.5])[:, None, None, None, None]
    )
    log_weights = torch.randn(3, 5, generator=g)
    found = posterior_mean(x_t, alpha, sigma, candidates, log_weights)
    for b in range(3):
        likelihood = [
            math.exp(float(log_weights[b, k]))
            * math.exp(-float(((x_t[b] - alpha[b] * c) ** 2).sum() / (2 * sigma[b] ** 2)))
            for k, c in enumerate(candidates[b])
        ]
        mean = sum(w * c for w, c in zip(likelihood, candidates[b], strict=True)) / sum(likelihood)
        torch.testing.assert_close(found[b], mean, rtol=1e-4, atol=1e-5)


def test_posterior_noise_is_the_score_of_the_mixture() -> None:
    x_t = torch.tensor([[0.3, -0.2], [1.1, 0.4]]).double().requires_grad_()
    candidates = torch.tensor([[[1.0, 0.0], [-0.5, 0.7], [0.2, 0.2]]]).double().repeat(2, 1, 1)
    centres = A[:, None] * candidates
    distance = ((x_t[:, None] - centres) ** 2).sum(-1)
    log_density = torch.logsumexp(-distance / (2 * S**2), dim=1)
    (score,) = torch.autograd.grad(log_density.sum(), x_t)
    x = x_t.detach()
    eps = noise_from_mean(x, A, S, posterior_mean(x, A, S, candidates))
    torch.testing.assert_close(eps, -S * score)


def test_posterior_mean_decides_between_large_near_equal_images() -> None:
    """In float32 the distances of 100,000 bright elements would round the difference away."""
    first = torch.full((1, 100_000), 100.0)
    second = first.clone()
    second[0, 0] += 0.02
    candidates = torch.stack([first, second], dim=1)
    alpha, sigma = torch.tensor([[1.0]]), torch.tensor([[0.01]])
    mean = posterior_mean(second, alpha, sigma, candidates)
    share = 1.0 / (1.0 + math.exp(-(float(second[0, 0] - 100.0) ** 2) / (2 * 0.01**2)))
    assert float((mean[0, 0] - 100.0) / (second[0, 0] - 100.0)) == pytest.approx(share, abs=1e-2)


def test_posterior_mean_checks_shapes_and_knows_the_single_image() -> None:
    x_t, only = torch.zeros(2, 3, 1, 1), torch.rand(2, 1, 3, 1, 1)
    level = torch.ones(2, 1, 1, 1)
    assert torch.equal(posterior_mean(x_t, level, level, only), only[:, 0])
    with pytest.raises(ValueError, match=r"expected \[2, K, \*\(3, 1, 1\)\]"):
        posterior_mean(x_t, level, level, torch.zeros(3, 2, 3, 1, 1))


def test_gaussian_prior_gives_each_row_its_own_text() -> None:
    texts = {
        "": (torch.zeros(1, 1, 1), 4.0),
        "a": (torch.full((1, 1, 1), 2.0), 0.25),
        "b": (torch.full((1, 1, 1), -3.0), torch.tensor(1.0)),
    }
    schedule = cosine_schedule(100)
    prior = GaussianPrior(texts, schedule)
    t, x_t = torch.tensor([10, 50, 90]), torch.full((3, 1, 1, 1), 0.5)
    eps = prior.predict_noise(x_t, t, Condition(prior.encode_text(["b", "", "a"])))
    for row, (m, v) in enumerate([(-3.0, 1.0), (0.0, 4.0), (2.0, 0.25)]):
        a, s = float(schedule.alpha[t[row]]), float(schedule.sigma[t[row]])
        assert float(eps[row]) == pytest.approx(s * (0.5 - a * m) / (a * a * v + s * s), rel=1e-5)


def test_finite_set_prior_pads_sets_without_counting_the_padding() -> None:
    one, three = torch.full((1, 1, 1, 1), 5.0), torch.tensor([-1.0, 0.5, 2.0]).reshape(3, 1, 1, 1)
    schedule = cosine_schedule(100)
    prior = FiniteSetPrior({"one": one, "three": three}, schedule)
    t, x_t = torch.tensor([70, 70, 70]), torch.full((3, 1, 1, 1), 0.1)
    eps = prior.predict_noise(x_t, t, Condition(prior.encode_text(["one", "three", ""])))
    alpha, sigma = schedule.at(t)
    x0_hat = ((x_t - sigma * eps) / alpha).flatten()
    for row, images in enumerate([[5.0], [-1.0, 0.5, 2.0], [5.0, -1.0, 0.5, 2.0]]):
        a, s = float(alpha[row]), float(sigma[row])
        w = [math.exp(-((0.1 - a * c) ** 2) / (2 * s * s)) for c in images]
        mean = sum(p * c for p, c in zip(w, images, strict=True)) / sum(w)
        assert float(x0_hat[row]) == pytest.approx(mean, abs=1e-4)


def test_images_become_channels_first_in_minus_one_to_one() -> None:
    prior = GaussianPrior({"": (torch.zeros(3, 2, 2), 1.0)}, cosine_schedule(10), resolution=2)
    image = torch.rand(1, 2, 2, 3).requires_grad_()
    x = prior.encode_image(image)
    torch.testing.assert_close(x[0, 2, 0, 1], 2 * image[0, 0, 1, 2] - 1)
    x.sum().backward()
    assert torch.equal(image.grad, torch.full_like(image, 2.0))
    with pytest.raises(ValueError, match=r"\[B, H, W, C\]"):
        prior.encode_image(torch.zeros(2, 2, 3))


def test_unknown_texts_are_named() -> None:
    zero = (torch.zeros(1), 1.0)
    prior = GaussianPrior({"": zero, "a red mushroom": zero}, cosine_schedule(10))
    with pytest.raises(UserError, match="'a red mashroom'; the nearest are: 'a red mushroom'"):
        prior.encode_text(["a red mashroom"])
    with pytest.raises(ValueError, match="unconditional"):
        GaussianPrior({"a": zero}, cosine_schedule(10))

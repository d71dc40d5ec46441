"""Classifier-free guidance, the stacked call of the prior, and Perp-Neg."""

import math

import pytest
import torch

from maquette.common.guidance.ask import Ask
from maquette.common.guidance.conditions import Rows
from maquette.common.guidance.mixing import classifier_free, perp_neg_direction, perpendicular
from maquette.common.priors.base import Condition, Prior, Reference, TextEmbedding
from maquette.common.priors.noise import cosine_schedule
from maquette.common.scene.cameras import Cameras


class TellingPrior(Prior):
    """Predicts a number that tells which x, t, text and camera a row was asked with."""

    space, resolution, takes_camera = "pixel", 2, True
    schedule = cosine_schedule(1000)

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode_text(self, prompts):
        values = torch.tensor([float(len(p)) for p in prompts])
        return TextEmbedding(tuple(prompts), {"length": values})

    def encode_image(self, image):
        return image.permute(0, 3, 1, 2)

    def predict_noise(self, x_t, t, condition):
        self.calls.append(x_t.shape[0])
        told = 1e3 * condition.text.tensors["length"] + t / 1e3
        if condition.cameras is not None:
            told = told + 1e6 * condition.cameras.azimuth
        return x_t + told.to(x_t)[:, None, None, None]


def perp_neg(e_0, e_pos, e_negs, weights, scale):
    """As `Ask.guided` composes it."""
    return e_0 + scale * perp_neg_direction(e_0, e_pos, e_negs, weights)


def orbit_cameras(azimuth: list[float]) -> Cameras:
    a = torch.tensor(azimuth)
    return Cameras(a, torch.zeros_like(a), torch.ones_like(a), torch.ones_like(a))


def test_scale_one_is_the_text_and_zero_ignores_it() -> None:
    e_0, e_y = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 5.0])
    assert torch.equal(classifier_free(e_0, e_y, 1.0), e_y)
    assert torch.equal(classifier_free(e_0, e_y, 0.0), e_0)
    assert torch.equal(classifier_free(e_0, e_y, 7.5), torch.tensor([16.0, 50.5]))


def test_predict_asks_once_and_keeps_rows_together() -> None:
    prior = TellingPrior()
    x_t = torch.tensor([0.1, 0.2, 0.3]).double().reshape(3, 1, 1, 1)
    t = torch.tensor([1, 2, 3])
    cameras = orbit_cameras([1.0, 2.0, 3.0])
    wanted, empty = (
        Condition(prior.encode_text(p), cameras) for p in (["a", "bb", "ccc"], ["", "", ""])
    )
    found = Ask(prior, Rows(wanted, empty)).noise(x_t, t, "wanted", "empty", "negative")
    assert prior.calls == [6]
    assert found.keys() == {"wanted", "empty"}  # there is no negative
    for name, lengths in (("wanted", (1, 2, 3)), ("empty", (0, 0, 0))):
        for row in range(3):
            told = 0.1 * (row + 1) + 1e3 * lengths[row] + (row + 1) / 1e3 + 1e6 * (row + 1)
            assert float(found[name][row]) == pytest.approx(told, abs=1.0 / 64)
    with pytest.raises(ValueError, match="expected 3 of each condition, got 2"):
        Ask(prior, Rows(wanted.select([0, 1]), empty)).noise(x_t, t, "wanted")


def test_conditions_select_and_join_row_by_row() -> None:
    prior, cameras = TellingPrior(), orbit_cameras([1.0, 2.0, 3.0])
    picture = Reference(torch.arange(3.0).reshape(3, 1, 1, 1), cameras, orbit_cameras([7.0] * 3))
    whole = Condition(prior.encode_text(["a", "bb", "ccc"]), cameras, picture)
    some = whole.select([2, 0])
    assert some.text.prompts == ("ccc", "a")
    assert some.cameras is not None
    assert some.reference is not None
    assert some.cameras.azimuth.tolist() == some.reference.cameras.azimuth.tolist() == [3.0, 1.0]
    assert some.reference.x.flatten().tolist() == [2.0, 0.0]
    both = Condition.cat([some, whole])
    assert len(both) == 5
    assert both.cameras is not None
    assert both.reference is not None
    assert both.cameras.azimuth.tolist() == [3.0, 1.0, 1.0, 2.0, 3.0]
    assert both.reference.views.azimuth.tolist() == [7.0] * 5
    with pytest.raises(ValueError, match="cameras: expected in all of 2 parts or in none"):
        Condition.cat([whole, Condition(whole.text)])


def test_perp_neg_by_hand() -> None:
    """d = (2, 0); the negative (3, 4) has the part (0, 4) across it; weight -0.5, scale 10."""
    e_0 = torch.tensor([[1.0, 1.0]])
    found = perp_neg(
        e_0, e_0 + torch.tensor([[2.0, 0.0]]), e_0 + torch.tensor([[[3.0, 4.0]]]),
        torch.tensor([[-0.5]]), 10.0,
    )  # fmt: skip
    torch.testing.assert_close(found, torch.tensor([[21.0, -19.0]]))


def random_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    e_0, e_pos = torch.randn(2, 3, 4, 5, 5, generator=g, dtype=torch.float64)
    # Rows of very different size, so that a row that meets a stranger shows.
    size = torch.tensor([0.1, 1.0, 10.0]).double().reshape(3, 1, 1, 1)
    e_negs = torch.randn(2, 3, 4, 5, 5, generator=g, dtype=torch.float64) * size
    weights = torch.tensor([[-0.2, -1.0, 0.0], [-1.5, -0.3, -2.0]]).double()
    return e_0 * size, e_pos * size.flip(0), e_negs, weights


def test_perpendicular_parts_are_perpendicular_in_each_sample() -> None:
    e_0, e_pos, e_negs, _ = random_batch()
    axis, vector = e_pos - e_0, e_negs - e_0
    across = perpendicular(vector, axis)
    dot = (across * axis).flatten(2).sum(-1)
    norms = across.flatten(2).norm(dim=-1) * axis.flatten(1).norm(dim=-1)
    assert float((dot / norms).abs().max()) < 1e-12
    # What was taken away is along the axis: nothing else changed.
    taken = vector - across
    cosine = (taken * axis).flatten(2).sum(-1) / (
        taken.flatten(2).norm(dim=-1) * axis.flatten(1).norm(dim=-1)
    )
    torch.testing.assert_close(cosine.abs(), torch.ones_like(cosine))


def test_perp_neg_pairs_every_row_with_its_own() -> None:
    e_0, e_pos, e_negs, weights = random_batch()
    found = perp_neg(e_0, e_pos, e_negs, weights, 7.5)
    for b in range(3):  # one sample at a time, with scalars
        d = (e_pos[b] - e_0[b]).flatten()
        total = d.clone()
        for i in range(2):
            e = (e_negs[i, b] - e_0[b]).flatten()
            total += float(weights[i, b]) * (e - float(e @ d) / float(d @ d) * d)
        torch.testing.assert_close(found[b], e_0[b] + 7.5 * total.reshape(e_0[b].shape))
    for wrong_negs, wrong_weights in (
        (e_negs.roll(1, dims=1), weights),
        (e_negs, weights.roll(1, dims=1)),
        (e_negs.flip(0), weights),
    ):
        wrong = perp_neg(e_0, e_pos, wrong_negs, wrong_weights, 7.5)
        assert float((wrong - found).abs().flatten(1).amax(1).min()) > 0.1


def test_perp_neg_without_weights_is_guidance_and_survives_a_zero_axis() -> None:
    e_0, e_pos, e_negs, weights = random_batch()
    plain = perp_neg(e_0, e_pos, e_negs, torch.zeros_like(weights), 7.5)
    torch.testing.assert_close(plain, classifier_free(e_0, e_pos, 7.5))
    same = perp_neg(e_0, e_0, e_negs, weights, 1.0)
    push = (weights[:, :, None, None, None] * (e_negs - e_0)).sum(0)
    torch.testing.assert_close(same, e_0 + push)
    assert math.isfinite(float(same.sum()))


def test_perp_neg_refuses_shapes_that_do_not_match() -> None:
    e_0, e_pos, e_negs, weights = random_batch()
    with pytest.raises(ValueError, match="weights"):
        perp_neg(e_0, e_pos, e_negs, weights.T, 7.5)
    with pytest.raises(ValueError, match="e_negs"):
        perp_neg(e_0, e_pos, e_negs[:, :2], weights, 7.5)

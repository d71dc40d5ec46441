"""View-dependent text: which words a camera reads, and which row it gets."""

import math

import pytest
import torch

from maquette.common.config.prompts import BACK, OVERHEAD, PromptConfig
from maquette.common.errors import UserError
from maquette.common.guidance.prompts import (
    FRONT,
    SIDE,
    ViewPrompts,
    mix,
    perp_neg_weights,
    view_blend,
)
from maquette.common.guidance.texts import drop_words, view_texts
from maquette.common.priors.base import Prior, TextEmbedding
from maquette.common.priors.noise import NoiseSchedule
from maquette.common.scene.cameras import Cameras
from maquette.common.scene.view_words import view_phrase


class ListingPrior(Prior):
    """Embeds a text as its number in the order of first sight, and lists what it was asked."""

    space, resolution, takes_camera = "pixel", 4, False
    schedule = NoiseSchedule(torch.ones(1), torch.zeros(1))

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode_text(self, prompts):
        self.calls.append(list(prompts))
        index = torch.arange(len(prompts))
        return TextEmbedding(
            tuple(prompts), {"value": index.float()[:, None] * 10.0, "mask": index[:, None]}
        )

    def encode_image(self, image):
        return image

    def predict_noise(self, x_t, t, text, camera=None):
        return x_t


def cameras(azimuth: list[float], elevation: list[float] | None = None) -> Cameras:
    a = torch.deg2rad(torch.tensor(azimuth))
    e = torch.deg2rad(torch.tensor(elevation)) if elevation else torch.zeros_like(a)
    return Cameras(a, e, torch.ones_like(a), torch.ones_like(a))


@pytest.mark.parametrize(
    ("azimuth", "elevation", "words"),
    [
        (0, 0, "front view"),
        (44, 0, "front view"),
        (-44, 30, "front view"),
        (359, 0, "front view"),
        (46, 0, "side view"),
        (90, 59, "side view"),
        (-90, -20, "side view"),
        (270, 0, "side view"),
        (134, 0, "side view"),
        (136, 0, "back view"),
        (180, 0, "back view"),
        (-136, 0, "back view"),
        (540, 0, "back view"),
        (0, 61, "overhead view"),
        (180, 89, "overhead view"),
    ],
)
def test_directions_have_dreamfusions_words(azimuth: float, elevation: float, words: str) -> None:
    assert view_phrase(math.radians(azimuth), math.radians(elevation)) == words


def test_angles_and_phrases_are_configurable() -> None:
    config = PromptConfig(
        front_angle=10, back_angle=80, overhead_angle=30, phrases={"side": "in profile"} | {
            "front": "from the front", "back": "from behind", "overhead": "from above"
        },
    )  # fmt: skip
    phrase = [view_phrase(math.radians(a), math.radians(e), config) for a, e in
              ((9, 0), (11, 0), (101, 0), (0, 31))]  # fmt: skip
    assert phrase == ["from the front", "in profile", "from behind", "from above"]
    with pytest.raises(ValueError, match="front_angle"):
        PromptConfig(front_angle=100, back_angle=90)


def test_texts_of_the_views() -> None:
    assert view_texts(" a dog ", PromptConfig()) == (
        "a dog, front view", "a dog, side view", "a dog, back view", "a dog, overhead view"
    )  # fmt: skip
    assert view_texts("a dog", PromptConfig(view_dependent=False)) == ("a dog",) * 4
    own = view_texts("a dog", PromptConfig(prompts={"back": "the tail of a dog"}))
    assert own[2] == "the tail of a dog"
    assert own[0] == "a dog, front view"


@pytest.mark.parametrize("prompt", ["", "   ", "\n"])
def test_an_empty_prompt_is_the_users_to_mend(prompt: str) -> None:
    with pytest.raises(UserError, match="prompt is empty"):
        ViewPrompts.encode(ListingPrior(), prompt)
    with pytest.raises(UserError, match="back view is empty"):
        view_texts("a dog", PromptConfig(prompts={"back": prompt}))


def test_debiasing_drops_whole_words_and_tidies_up() -> None:
    assert drop_words("a smiling, happy Face, red", ["smiling", "face"]) == "a, happy, red"
    assert drop_words("a surface", ["face"]) == "a surface"
    texts = view_texts("a smiling corgi", PromptConfig(debias=True))
    assert texts[0] == "a smiling corgi, front view"
    assert texts[2] == "a corgi, back view"
    with pytest.raises(UserError, match="debiasing leaves nothing"):
        view_texts("smiling face", PromptConfig(debias=True))


def test_texts_are_encoded_once_and_rows_follow_the_cameras() -> None:
    prior = ListingPrior()
    prompts = ViewPrompts.encode(prior, "a dog", PromptConfig(negative=" blurry "))
    views = ["a dog, front view", "a dog, side view", "a dog, back view", "a dog, overhead view"]
    assert prior.calls == [[*views, "", "blurry"]]
    batch = cameras([180.0, 0.0, 90.0, 10.0], [0.0, 0.0, 0.0, 80.0])
    rows = prompts.rows(batch)
    assert rows.prompts == tuple(views[i] for i in (2, 0, 1, 3))
    assert rows.tensors["value"].flatten().tolist() == [20.0, 0.0, 10.0, 30.0]
    assert prompts.unconditional_rows(batch).prompts == ("",) * 4
    negative = prompts.negative_rows(batch)
    assert negative is not None
    assert negative.tensors["value"].flatten().tolist() == [50.0] * 4


def test_equal_texts_are_encoded_once_and_no_negative_is_none() -> None:
    prior = ListingPrior()
    prompts = ViewPrompts.encode(prior, "a dog", PromptConfig(view_dependent=False))
    told = ViewPrompts.encode(ListingPrior(), "a dog", PromptConfig(), told=True)
    assert told.views.prompts == prompts.views.prompts
    assert prior.calls == [["a dog", ""]]
    assert prompts.rows(cameras([0.0, 180.0])).prompts == ("a dog", "a dog")
    assert prompts.negative_rows(cameras([0.0])) is None


def test_interpolation_is_linear_in_azimuth() -> None:
    prompts = ViewPrompts.encode(ListingPrior(), "a dog", PromptConfig(interpolate=True))
    azimuth = [0.0, 22.5, 90.0, -90.0, 135.0, 180.0, 45.0]
    rows = prompts.rows(cameras(azimuth, [0.0] * 6 + [70.0]))
    expected = [0.0, 2.5, 10.0, 10.0, 15.0, 20.0, 30.0]  # front 0, side 10, back 20, overhead 30
    assert rows.tensors["value"].flatten().tolist() == pytest.approx(expected, abs=1e-4)
    assert rows.prompts[1] == "a dog, front view"
    assert rows.tensors["mask"].flatten().tolist()[:2] == [0, 0]


def test_perp_neg_blends_the_texts_as_its_weights_do() -> None:
    """Unless the configuration says otherwise: weights follow the azimuth, so texts do."""
    batch = cameras([22.5])
    for config, value in (
        (PromptConfig(perp_neg=True), 2.5),
        (PromptConfig(perp_neg=True, interpolate=False), 0.0),
        (PromptConfig(), 0.0),
    ):
        rows = ViewPrompts.encode(ListingPrior(), "a dog", config).rows(batch)
        assert float(rows.tensors["value"]) == pytest.approx(value, abs=1e-4)


def test_mix_weighs_each_row_by_its_own_share() -> None:
    a = TextEmbedding(("a", "a"), {"v": torch.tensor([[1.0], [1.0]])})
    b = TextEmbedding(("b", "b"), {"v": torch.tensor([[5.0], [5.0]])})
    mixed = mix(a, b, torch.tensor([0.75, 0.25]))
    assert mixed.tensors["v"].flatten().tolist() == [2.0, 4.0]
    assert mixed.prompts == ("a", "b")


def test_blend_names_its_two_views() -> None:
    first, second, share = view_blend(
        cameras([30.0, -120.0, 0.0], [0.0, 0.0, 75.0]), PromptConfig()
    )
    assert (first, second) == ([FRONT, SIDE, OVERHEAD], [SIDE, BACK, OVERHEAD])
    assert share.tolist() == pytest.approx([2 / 3, 2 / 3, 1.0])


def test_perp_neg_pushes_away_from_the_other_views() -> None:
    batch = cameras([0.0, 45.0, 89.99, 90.01, 180.0, 0.0], [0.0] * 5 + [80.0])
    indices, weights = perp_neg_weights(batch, PromptConfig())
    assert indices[0][:5] == [FRONT, FRONT, FRONT, SIDE, SIDE]
    assert indices[1][:5] == [SIDE, SIDE, SIDE, FRONT, FRONT]

    def f(a: float, c: float, r: float) -> float:
        return -(a * math.exp(-0.5 * r) + c)

    first = [0.0, f(4, -2.426, 0.5), f(4, -2.426, 0.0), 0.0, f(1, -0.606, 0.0), 0.0]
    second = [f(4, -2.426, 0.0), f(4, -2.426, 0.5), 0.0, f(1, 0.967, 1.0), f(1, 0.967, 0.0), 0.0]
    assert weights[0].tolist() == pytest.approx(first, abs=2e-3)
    assert weights[1].tolist() == pytest.approx(second, abs=2e-3)
    assert bool((weights <= 0).all())
    # The push away from the front does not jump where the branches meet, at the side.
    assert float(weights[0, 2]) == pytest.approx(float(weights[1, 3]), abs=2e-3)


def test_perp_neg_rows_match_their_indices() -> None:
    prompts = ViewPrompts.encode(ListingPrior(), "a dog")
    batch = cameras([0.0, 180.0, 100.0])
    (first, second), weights = prompts.perp_neg_rows(batch)
    assert first.prompts == ("a dog, front view", "a dog, side view", "a dog, side view")
    assert second.prompts == ("a dog, side view", "a dog, front view", "a dog, front view")
    assert weights.shape == (2, 3)

"""A prior as the judge: rows that belong together, every loss, schedules, kept texts."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.common import ranks
from maquette.common.config.priors import PriorConfig
from maquette.common.config.prompts import PromptConfig
from maquette.common.config.reading import build_config
from maquette.common.embedded.exact import ExactPrior
from maquette.common.errors import UserError
from maquette.common.guidance import prepare
from maquette.common.guidance.conditions import TextConditioner
from maquette.common.guidance.judges import Judged, Panel, Views, common_group
from maquette.common.guidance.prepare import prepare_judges
from maquette.common.guidance.prompts import ViewPrompts, perp_neg_weights
from maquette.common.guidance.score import ScoreDistillation, clip_gradient
from maquette.common.guidance.timesteps import dreamtime_timesteps, sqrt_annealing
from maquette.common.losses import CSD, LOSSES, LossName
from maquette.common.priors.base import Prior, TextEmbedding
from maquette.common.priors.latents import decode_latents, encode_latents
from maquette.common.priors.noise import NoiseSchedule, cosine_schedule
from maquette.common.priors.pretrained import LoadedPipeline, PretrainedPrior
from maquette.common.runs.folder import Run
from maquette.common.runs.stage import COARSE, FINE, Stage
from maquette.common.scene.cameras import Cameras, orbit
from tests.reference.tiny_models import build

CPU = torch.device("cpu")
NAMES: tuple[LossName, ...] = get_args(LossName)
THREE = Cameras(
    azimuth=torch.tensor([0.3, math.pi, math.radians(110)]),
    elevation=torch.tensor([0.0, 0.2, 0.1]),
    distance=torch.full((3,), 3.0),
    fovy=torch.full((3,), 0.7),
)


class Speaking(Prior):
    """The noise of a row is an image that its text's embedding alone decides, louder with its t.

    A row that meets another row's text or timestep gives another image, and a blend of two texts
    gives the blend of theirs.
    """

    space, resolution, takes_camera = "pixel", 4, True
    schedule = cosine_schedule(100)

    def __init__(self) -> None:
        self.cameras: list[Cameras | None] = []
        self.surfaces: list[Tensor | None] = []

    def encode_text(self, prompts):
        voices = torch.stack([voice(p, (3, 4, 4)) for p in prompts])
        return TextEmbedding(tuple(prompts), {"voice": voices})

    def encode_image(self, image):
        return image.permute(0, 3, 1, 2)

    def predict_noise(self, x_t, t, condition):
        self.cameras.append(condition.cameras)
        self.surfaces.append(condition.surface)
        return condition.text.tensors["voice"] * (1.0 + t.reshape(-1, 1, 1, 1) / 100.0)


def voice(prompt: str, shape: Any) -> Tensor:
    """A fixed random image a text."""
    seed = sum(ord(c) * 31**i for i, c in enumerate(prompt)) % 2**31
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def judge_of(
    prior: Prior,
    text: PromptConfig | None = None,
    told: bool = False,
    loss: str = "sds",
    **options: Any,
) -> ScoreDistillation:
    text = text or PromptConfig()
    prompts = ViewPrompts.encode(prior, "a red chair", text, told)
    conditioner = TextConditioner(prompts, told, text.perp_neg)
    kind = LOSSES[loss]
    taken = {key: value for key, value in options.items() if key in kind.model_fields}
    return ScoreDistillation(prior, conditioner, kind(**taken), steps=10)


def views_of(image: Tensor, cameras: Cameras) -> Views:
    return Views(image, cameras, torch.zeros(3), lambda: torch.ones(image.shape[:3]))


def look(judge: Any, image: Tensor, cameras: Cameras, step: int) -> Judged:
    return judge(views_of(image, cameras), step)


def ask_at(judge: ScoreDistillation, step: int) -> Any:
    rows = judge.conditioner.rows(THREE)
    return judge.ask(rows, views_of(torch.zeros(3, 4, 4, 3), THREE), step)


def noise_of(text: str, t: int) -> Tensor:
    return voice(text, (3, 4, 4)) * (1.0 + t / 100.0)


def test_each_view_is_judged_by_its_own_text() -> None:
    """SDS with guidance and a negative prompt, row by row, against the formula written out."""
    guide = judge_of(
        Speaking(),
        PromptConfig(negative="blurry", prompts={"back": "the back of a chair"}),
        guidance_scale=5.0,
        weight="one",
        t_min=0.4,
        t_max=0.4,
    )
    image = torch.rand(3, 4, 4, 3, requires_grad=True)
    torch.manual_seed(5)
    look(guide, image, THREE, 0).loss.backward()
    torch.manual_seed(5)
    torch.randint(0, 9, (3,))  # the guide draws its timesteps first
    noise = torch.randn(3, 3, 4, 4)
    texts = ["a red chair, front view", "the back of a chair", "a red chair, side view"]
    for row, text in enumerate(texts):
        e_y, e_n = noise_of(text, 40), noise_of("blurry", 40)
        expected = (e_n + 5.0 * (e_y - e_n) - noise[row]) / 3
        assert image.grad is not None
        torch.testing.assert_close(image.grad[row].permute(2, 0, 1), expected)


def test_perp_neg_pairs_rows_of_a_batch_of_three() -> None:
    guide = judge_of(
        Speaking(),
        PromptConfig(perp_neg=True),
        guidance_scale=4.0,
        weight="one",
        t_min=0.2,
        t_max=0.2,
    )
    torch.manual_seed(1)
    x, noise, t = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4), torch.full((3,), 20)
    found = guide.loss.gradient(x, x, t, noise, ask_at(guide, 0)).x
    indices, weights = perp_neg_weights(THREE, PromptConfig())
    assert len({tuple(column) for column in weights.T.tolist()}) == 3  # unequal rows
    views = [f"a red chair, {view} view" for view in ("front", "side", "back", "overhead")]
    # The texts are blended as the weights are: by azimuth, front 0, side 90, back 180 degrees.
    quarters = [0.3 / (0.5 * math.pi), 2.0, 110 / 90]
    shares = [(0, 1 - quarters[0]), (1, 0.0), (1, 2 - quarters[2])]
    for row, (first, share) in enumerate(shares):
        e_0 = noise_of("", 20)
        e_y = share * noise_of(views[first], 20) + (1 - share) * noise_of(views[first + 1], 20)
        d = e_y - e_0
        push = torch.zeros_like(d)
        for i in range(2):
            n = noise_of(views[indices[i][row]], 20) - e_0
            push += weights[i, row] * (n - (n * d).sum() / (d * d).sum() * d)
        torch.testing.assert_close(found[row], e_0 + 4.0 * (d + push) - noise[row])


def test_a_prior_is_told_the_camera_only_if_asked() -> None:
    for told in (True, False):
        prior = Speaking()
        look(judge_of(prior, told=told), torch.rand(3, 4, 4, 3), THREE, 0)
        assert all((camera is not None) == told for camera in prior.cameras)
        assert prior.cameras


def test_a_prior_is_told_the_surface_it_paints_if_it_knows_what_to_do_with_it() -> None:
    surface = torch.rand(3, 8, 8, 7)
    views = replace(views_of(torch.zeros(3, 4, 4, 3), THREE), surface=surface)
    for takes in (True, False):
        prior = Speaking()
        prior.takes_surface = takes
        judge = judge_of(prior, told=True, guidance_scale=2.0)
        judge(views, 0)
        judge(replace(views, surface=None), 0)
        told, untold = prior.surfaces
        assert untold is None
        if not takes:
            assert told is None
            continue
        assert told is not None
        expected = surface[:, 1::2, 1::2].permute(0, 3, 1, 2)
        assert torch.equal(told, torch.cat([expected, expected]))  # with the text and without


def test_gradients_are_clipped_by_the_schedule_of_the_step() -> None:
    settings: dict[str, Any] = {"weight": "one", "guidance_scale": 9.0}
    for by in ("norm", "value"):
        plain, clipped = (
            judge_of(Speaking(), clip=clip, clip_by=by, **settings)
            for clip in (None, [(0, 0.5), (10, 0.1)])
        )
        for step, limit in ((0, 0.5), (5, 0.3)):
            grads = []
            for guide in (plain, clipped):
                image = torch.rand(3, 4, 4, 3, generator=torch.Generator().manual_seed(0))
                image.requires_grad_()
                torch.manual_seed(step)
                look(guide, image, THREE, step).loss.backward()
                assert image.grad is not None
                grads.append(3 * image.grad)
            torch.testing.assert_close(grads[1], clip_gradient(grads[0], limit, by))
            assert (grads[0] - grads[1]).abs().max() > 0.1


def test_timesteps_follow_their_schedules() -> None:
    prior = Speaking()
    drawn = judge_of(prior, t_min=0.2, t_max=[(0, 0.9), (9, 0.4)])
    for step, high in ((0, 90), (9, 40)):
        t = drawn.timesteps(step, 4000)
        assert (int(t.min()), int(t.max())) == (20, high)
    sqrt = judge_of(prior, timesteps="sqrt")
    for step in (0, 3, 9):
        expected = round(100 * sqrt_annealing(step, 10))
        assert sqrt.timesteps(step, 2).tolist() == [expected, expected]
    low = judge_of(prior, timesteps="sqrt", t_min=0.02, t_max=0.2)
    assert low.timesteps(9, 1).tolist() == [20]  # never above t_max
    dreamtime = judge_of(prior, timesteps="dreamtime", t_max=0.9)
    expected = dreamtime_timesteps(prior.schedule, 10, 0.02, 0.9)
    assert [int(dreamtime.timesteps(i, 3)[2]) for i in range(10)] == expected.tolist()


def test_the_latest_timestep_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that each of them takes as many steps of an inversion as one with all the views would."""
    judge = judge_of(Speaking())
    torch.manual_seed(5)
    whole = judge.timesteps(0, 8)
    for index in range(2):
        monkeypatch.setattr(ranks, "_now", ranks.Ranks(index, 2, index))
        torch.manual_seed(5)
        own = judge.timesteps(0, 4)
        assert torch.equal(own, whole[4 * index : 4 * index + 4])
        assert judge._latest == int(whole.max())


def test_dreamtime_needs_signal_at_every_level() -> None:
    prior = Speaking()
    prior.schedule = replace(prior.schedule, alpha=prior.schedule.alpha * 0)
    with pytest.raises(UserError, match="DreamTime"):
        judge_of(prior, timesteps="dreamtime")


def test_csd_moves_to_the_negative_prompt_over_the_stage() -> None:
    guide = judge_of(Speaking())
    assert [ask_at(guide, step).progress for step in (0, 9, 12)] == [0.0, 1.0, 1.0]
    x, t, noise = torch.rand(3, 3, 4, 4), torch.full((3,), 20), torch.zeros(3, 3, 4, 4)
    text = PromptConfig(negative="blurry")
    half = judge_of(Speaking(), text, loss="csd", progress=[(0, 0.0), (20, 1.0)], weight="one")
    found = half.loss.gradient(x, x, t, noise, ask_at(half, 5)).x
    base = 0.75 * noise_of("", 20) + 0.25 * noise_of("blurry", 20)
    torch.testing.assert_close(found[1], noise_of("a red chair, back view", 20) - base)
    assert isinstance(half.loss, CSD)


def test_guidance_follows_its_schedule() -> None:
    guide = judge_of(Speaking(), guidance_scale=[(0, 3.0), (8, 1.0)])
    assert [ask_at(guide, step).scale for step in (0, 4, 9)] == [3.0, 2.0, 1.0]
    assert ask_at(judge_of(Speaking()), 4).scale == 101.0  # the loss's own
    assert ask_at(judge_of(Speaking(), weight="alpha_sigma"), 4).kind == "alpha_sigma"


FLAT = NoiseSchedule(torch.tensor([0.9, 0.5, 0.0]), torch.tensor([0.1, 0.5, 1.0]))
"""A flow model's levels: the last one holds no signal."""


@pytest.mark.parametrize(
    ("loss", "options", "wrong"),
    [
        ("sjc", {}, "sjc divides"),
        ("sdi", {}, "sdi divides"),
        ("hifa", {"weight": "one"}, "hifa divides"),
        ("sds", {"weight": "signal"}, "weight signal divides"),
        ("ism", {}, "weight signal divides"),
        ("sds", {}, None),
        ("ism", {"weight": "one"}, None),
    ],
)
def test_levels_without_signal_are_refused_where_they_are_divided_by(
    loss: str, options: dict[str, Any], wrong: str | None
) -> None:
    prior = Speaking()
    prior.schedule = FLAT
    judge_of(prior, loss=loss, t_max=0.4, **options)
    for t_max in (1.0, [(0, 0.3), (5, 1.0)]):
        if wrong is None:
            judge_of(prior, loss=loss, t_max=t_max, **options)
        else:
            with pytest.raises(UserError, match=rf"t_max: at 1 .*{wrong}"):
                judge_of(prior, loss=loss, t_max=t_max, **options)


def test_views_that_are_denoised_jointly_share_a_timestep() -> None:
    prior = Speaking()
    prior.group = 4
    t = judge_of(prior).timesteps(0, 400).view(100, 4)
    assert torch.equal(t, t[:, :1].expand(100, 4))
    assert len(t[:, 0].unique()) > 30


class Liking:
    """A judge that likes bright views, and counts what is asked of it."""

    def __init__(self, group: int = 1) -> None:
        self.group, self.learned, self.state = group, 0, torch.zeros(1)

    def __call__(self, views: Views, step: int) -> Judged:
        return Judged(-views.image.sum(), {"brightness": float(views.image.detach().sum())})

    def learn(self) -> None:
        self.learned += 1

    def memory_advice(self) -> Any:
        return nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        return {"state": self.state}

    def load(self, tensors: Any) -> None:
        self.state = tensors["state"]


def test_several_judges_are_weighed_by_their_schedules() -> None:
    first, second = Liking(), Liking()
    panel = Panel({"prior": (first, 1.0), "clip": (second, [(0, 0.0), (10, 5.0)])})
    image = torch.full((1, 2, 2, 3), 0.5, requires_grad=True)
    for step, weight in ((0, 1.0), (4, 3.0), (10, 6.0)):
        judged = look(panel, image, orbit(1), step)
        assert float(judged.loss.detach()) == pytest.approx(-6.0 * weight)
        (gradient,) = torch.autograd.grad(judged.loss, image)
        torch.testing.assert_close(gradient, torch.full_like(gradient, -weight))
    assert judged.watch == {"brightness": 6.0, "clip brightness": 6.0}
    panel.learn()
    assert (first.learned, second.learned) == (1, 1)
    first.state, second.state = torch.tensor([1.0]), torch.tensor([2.0])
    again = Panel({"prior": (Liking(), 1.0), "clip": (Liking(), 1.0)})
    again.load(panel.tensors())
    assert [float(judge.tensors()["state"]) for judge, _ in again.judges.values()] == [1.0, 2.0]


def test_judges_of_single_views_join_any_group() -> None:
    assert common_group([1, 1]) == 1
    assert common_group([1, 4, 4]) == 4
    with pytest.raises(ValueError, match=r"groups of \[4, 6\] views"):
        common_group([4, 1, 6])
    with pytest.raises(ValueError, match="at least one"):
        Panel({})


@pytest.mark.parametrize("loss", [name for name in NAMES if name != "vsd"])
def test_every_loss_runs_on_the_exact_prior(loss: LossName) -> None:
    prior = ExactPrior("pixel")
    guide = judge_of(prior, told=True, loss=loss, steps=2, t_max=0.6)
    image = torch.rand(2, 64, 64, 3, requires_grad=True)
    guided = look(guide, image, orbit(2), 1)
    guided.loss.backward()
    assert image.grad is not None
    assert bool(torch.isfinite(image.grad).all())
    # Guidance away from "any toy" pulls every loss towards the chair: down the gradient is nearer.
    truth = torch.cat(prior.true_views("a red chair", orbit(2)))
    away = (2 * image.detach().permute(0, 3, 1, 2) - 1) - truth
    assert float((away.permute(0, 2, 3, 1) * image.grad).sum()) > 0


# -- HiFA's pixels ---------------------------------------------------------------------------------


class LinearVAE(nn.Module):
    """Encodes to 0.7 times the mean of 2 x 2 pixels, decodes a latent to 4 pixels 0.6 z + 0.05."""

    dtype = torch.float32

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = config or {"scaling_factor": 0.5, "shift_factor": 0.1}
        self.decoded: list[Tensor] = []
        self.autocast: list[bool] = []

    def encode(self, pixels: Tensor) -> Any:
        return SimpleNamespace(latents=0.7 * F.avg_pool2d(pixels, 2))

    def decode(self, z: Tensor, return_dict: bool) -> tuple[Tensor]:
        assert not torch.is_grad_enabled()
        assert not return_dict
        self.decoded.append(z)
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return (0.6 * z.repeat_interleave(2, 2).repeat_interleave(2, 3) + 0.05,)


class Decoding(PretrainedPrior):
    """A latent prior of 8 x 8 pixels and, without a VAE, a pixel prior; its noise is `voice`'s."""

    schedule, resolution, family = cosine_schedule(100), 8, "sd"

    def __init__(self, vae: nn.Module | None) -> None:
        pipeline = SimpleNamespace(vae=vae)
        options = PriorConfig(name="fake")
        loaded = LoadedPipeline(pipeline, "fake", None, options, CPU, torch.float32)
        super().__init__(loaded, nn.Identity(), "epsilon")
        self.space = "pixel" if vae is None else "latent"

    def encode_text(self, prompts):
        return TextEmbedding(tuple(prompts), {"row": torch.arange(len(prompts))})

    def text_limits(self):
        return []

    def embed(self, prompts, device):
        return {}

    def denoise(self, x_t, t, condition):
        return torch.stack([voice(p, x_t.shape[1:]) for p in condition.text.prompts])


def hifa_of(prior: Prior, **config: Any) -> ScoreDistillation:
    return judge_of(prior, loss="hifa", guidance_scale=1.0, t_min=0.4, t_max=0.4, **config)


def judged(guide: ScoreDistillation, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the loss with respect to the image, the loss, and the noise that was drawn."""
    image = image.clone().requires_grad_()
    torch.manual_seed(7)
    guided = look(guide, image, THREE, 0)
    guided.loss.backward()
    torch.manual_seed(7)
    torch.randint(0, 9, (3,))  # the guide draws its timesteps first
    shape = guide.prior.encode_image(image).shape
    assert image.grad is not None
    return image.grad, guided.loss.detach(), torch.randn(shape)


def images(side: int) -> Tensor:
    return torch.rand(3, side, side, 3, generator=torch.Generator().manual_seed(1))


def test_hifa_compares_the_decoded_estimate_with_the_render() -> None:
    """Both parts of the gradient written out, latents' and pixels', on a VAE one can invert."""
    vae, image = LinearVAE(), images(8)
    guide = hifa_of(Decoding(vae), image_weight=0.3)
    grad, _, noise = judged(guide, image)
    a, s = float(guide.prior.schedule.alpha[40]), float(guide.prior.schedule.sigma[40])
    w = s * s * a / s  # w(t) = sigma^2, times alpha / sigma
    pixels = 2 * image.permute(0, 3, 1, 2) - 1
    x = 0.5 * (0.7 * F.avg_pool2d(pixels, 2) - 0.1)
    for row, text in enumerate(("front", "back", "side")):
        e = voice(f"a red chair, {text} view", (3, 4, 4))
        estimate = (a * x[row] + s * noise[row] - s * e) / a
        decoded = 0.6 * (estimate / 0.5 + 0.1) + 0.05
        shown = (0.5 * decoded + 0.5).clamp(0, 1)
        assert bool((shown != 0.5 * decoded + 0.5).any())  # the clamp is at work
        wide = [
            v.repeat_interleave(2, 1).repeat_interleave(2, 2) for v in (x[row] - estimate, shown)
        ]
        in_latents = 2 * 0.7 * 0.25 * 0.5 * w * wide[0]  # d x / d image of 2 x 2 pixels a latent
        in_pixels = 0.3 * w * (image[row].permute(2, 0, 1) - wide[1])
        torch.testing.assert_close(
            grad[row].permute(2, 0, 1), (in_latents + in_pixels) / 3, rtol=1e-4, atol=1e-6
        )
    assert len(vae.decoded) == 1


def test_hifa_steps_towards_the_decoded_estimate() -> None:
    """A step down the pixel part alone brings the render nearer, at another size as well."""
    for side in (8, 20):
        prior, image = Decoding(LinearVAE()), images(side)
        with_pixels, without = (
            judged(hifa_of(prior, image_weight=weight), image)[0] for weight in (0.5, 0.0)
        )
        down = without - with_pixels
        x, t = prior.encode_image(image), torch.full((3,), 40)
        _, _, noise = judged(hifa_of(prior), image)
        ask = ask_at(hifa_of(prior), 0)
        e = prior.predict_noise(x, t, ask.rows.wanted)
        alpha, sigma = prior.schedule.at(t)
        goal = ask.decoded((alpha * x + sigma * noise - sigma * e) / alpha, image)
        assert goal.shape == image.shape
        far = [picture - goal for picture in (image, image + 0.1 * down)]
        assert float(far[1].square().sum()) < float(far[0].square().sum())
        assert bool((down.abs().amax(dim=(1, 2, 3)) > 1e-4).all())


def test_hifa_without_pixels_decodes_nothing() -> None:
    vae, image = LinearVAE(), images(8)
    guide = hifa_of(Decoding(vae), pixels=False, image_weight=0.3, denoising_steps=2)
    grad, loss, noise = judged(guide, image)
    assert vae.decoded == []
    image = image.clone().requires_grad_()
    x = guide.prior.encode_image(image)
    t = torch.full((3,), 40)
    gradient = guide.loss.gradient(x.detach(), image, t, noise, ask_at(guide, 0)).x
    expected = (x * gradient).sum() / 3
    expected.backward()
    assert torch.equal(loss, expected.detach())
    assert image.grad is not None
    assert torch.equal(grad, image.grad)


@pytest.mark.parametrize("prior", [Decoding(None), Speaking()])
def test_hifa_on_pixels_is_not_counted_twice(prior: Prior) -> None:
    image = images(prior.resolution)
    on, off = (judged(hifa_of(prior, pixels=pixels), image) for pixels in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(on, off, strict=True))


def test_no_other_loss_decodes() -> None:
    vae = LinearVAE()
    for loss in NAMES:
        if loss not in ("vsd", "hifa"):
            look(judge_of(Decoding(vae), loss=loss, t_max=0.6), images(8), THREE, 0)
    assert vae.decoded == []


def test_the_limit_holds_for_both_of_hifas_gradients() -> None:
    image, limit = images(8), 1e-3
    guide = hifa_of(Decoding(LinearVAE()), clip=limit, clip_by="value", image_weight=50.0)
    grad, _, _ = judged(guide, image)
    assert float(3 * grad.abs().max()) == pytest.approx(limit * (1 + 0.175), rel=1e-3)


def test_decoding_leads_back_and_computes_as_encoding_does() -> None:
    pixels = torch.rand(2, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    statistics = {"latents_mean": [0.1, -0.2, 0.3], "latents_std": [0.5, 2.0, 1.5]}
    for config in ({}, {"scaling_factor": 3.0}, {**statistics, "scaling_factor": 3.0}):
        vae = LinearVAE(**config)
        with torch.no_grad():
            back = decode_latents(vae, encode_latents(vae, pixels))
        torch.testing.assert_close(back, 0.6 * 0.7 * pixels + 0.05)
    prior = Decoding(vae := LinearVAE())
    prior.autocast = True
    image = prior.decode_image(torch.randn(2, 3, 4, 4))
    assert image is not None
    assert image.shape == (2, 8, 8, 3)
    assert vae.autocast == [True]
    assert Decoding(None).decode_image(torch.zeros(1, 3, 8, 8)) is None


def test_decoding_out_of_memory_names_options(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = Decoding(LinearVAE())

    def full(z: Tensor, return_dict: bool) -> None:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(prior.vae, "decode", full)
    with pytest.raises(UserError, match="checkpoint_vae"):
        prior.decode_image(torch.zeros(1, 3, 4, 4))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: build(name, root / name) for name in ("sd15", "camera-pixel")}


def run_in(folder: Path, model: Path, *settings: str, prompt: str = "a red chair") -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [
        f"coarse.prior={model}",
        "coarse.distillation.guidance_scale=7.5",
        "coarse.steps=8",
        *settings,
    ]
    return Run(folder, build_config(prompt, None, pairs))


def only(panel: Panel) -> Any:
    """The prior's judge, which is alone."""
    assert list(panel.judges) == ["prior"]
    return panel.judges["prior"][0]


@pytest.mark.parametrize(("stage", "sees"), [(COARSE, 64), (FINE, 512)])
def test_the_exact_prior_sees_what_its_stage_renders(
    stage: Stage, sees: int, tmp_path: Path
) -> None:
    pairs = [f"{stage.name}.prior=exact", f"{stage.name}.prior.instances=2"]
    judge = only(
        prepare_judges(Run(tmp_path, build_config("a red chair", None, pairs)), stage, CPU)
    )
    assert isinstance(judge.prior, ExactPrior)
    assert (judge.prior.space, judge.prior.resolution) == (stage.space, sees)
    assert judge.prior.instances == 2
    wanted = judge.conditioner.rows(THREE).wanted
    assert wanted.text.prompts == ("a red chair",) * 3
    assert wanted.cameras is THREE


@pytest.mark.parametrize("loss", NAMES)
def test_every_loss_runs_on_stable_diffusion(
    loss: LossName, models: dict[str, Path], tmp_path: Path
) -> None:
    run = run_in(tmp_path, models["sd15"], f"coarse.distillation={loss}", "coarse.text.negative=x")
    guide = only(prepare_judges(run, COARSE, CPU))
    image = torch.rand(3, 32, 32, 3, requires_grad=True)
    guided = look(guide, image, THREE, 4)
    guided.loss.backward()
    assert image.grad is not None
    assert bool(torch.isfinite(image.grad).all())
    assert float(image.grad.abs().max()) > 0
    assert guided.watch["gradient"] > 0


def events(run: Run, name: str) -> list[dict[str, Any]]:
    lines = (run.folder / "events.jsonl").read_text("utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_texts_are_embedded_once_a_run(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(tmp_path, models["sd15"])
    first = only(prepare_judges(run, COARSE, CPU))
    kept = list(run.coarse.glob("text-*.safetensors"))
    assert len(kept) == 1
    assert isinstance(first.prior, PretrainedPrior)
    assert first.prior.pipeline.text_encoder is None  # freed
    loads: list[bool] = []
    real = prepare.load_or_kept

    def counted(options: Any, device: Any, text: bool) -> Any:
        loads.append(text)
        return real(options, device, text)

    monkeypatch.setattr(prepare, "load_or_kept", counted)
    monkeypatch.setattr(PretrainedPrior, "encode_text", lambda *_: pytest.fail("embedded again"))
    second = only(prepare_judges(run, COARSE, CPU))
    assert loads == [False]
    one, two = (judge.conditioner.rows(THREE) for judge in (first, second))
    for ours, theirs in ((one.wanted.text, two.wanted.text), (one.empty.text, two.empty.text)):
        assert ours.prompts == theirs.prompts
        assert torch.equal(ours.tensors["states"], theirs.tensors["states"])
    assert len(events(run, "prior loaded")) == 2
    assert events(run, "prior loaded")[0]["source"] == str(models["sd15"])


def test_kept_texts_belong_to_prompt_and_model(models: dict[str, Path], tmp_path: Path) -> None:
    only(prepare_judges(run_in(tmp_path, models["sd15"]), COARSE, CPU))
    only(prepare_judges(run_in(tmp_path, models["sd15"], prompt="a mushroom"), COARSE, CPU))
    assert len(list((tmp_path / "coarse").glob("text-*"))) == 2
    other = build("sd15", tmp_path / "other", seed=1)
    (tmp_path / "coarse" / "prior.json").unlink()
    only(prepare_judges(run_in(tmp_path, other), COARSE, CPU))
    kept = sorted((tmp_path / "coarse").glob("text-*"))
    assert len(kept) == 3
    kept[0].write_bytes(kept[0].read_bytes()[:-9])  # damaged: made again, not used
    for model, prompt in ((other, "a red chair"), (models["sd15"], "a mushroom")):
        (tmp_path / "coarse" / "prior.json").unlink()
        only(prepare_judges(run_in(tmp_path, model, prompt=prompt), COARSE, CPU))


def test_preparing_draws_nothing_of_the_run(models: dict[str, Path], tmp_path: Path) -> None:
    run = run_in(tmp_path, models["sd15"], "coarse.distillation=vsd")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = only(prepare_judges(run, COARSE, CPU)).tensors()
    torch.manual_seed(4)
    second = only(prepare_judges(run, COARSE, CPU)).tensors()
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_view_words_go_to_priors_that_are_not_told(models: dict[str, Path], tmp_path: Path) -> None:
    told = only(prepare_judges(run_in(tmp_path / "a", models["camera-pixel"]), COARSE, CPU))
    rows = told.conditioner.rows(THREE)
    assert rows.wanted.text.prompts == ("a red chair",) * 3
    assert rows.wanted.cameras is rows.empty.cameras is THREE
    blind_run = run_in(tmp_path / "b", models["camera-pixel"], "coarse.prior.tell_camera=false")
    blind = only(prepare_judges(blind_run, COARSE, CPU))
    rows = blind.conditioner.rows(THREE)
    assert rows.wanted.text.prompts[1] == "a red chair, back view"
    assert rows.wanted.cameras is None
    perp_neg = run_in(tmp_path / "c", models["camera-pixel"], "coarse.text.perp_neg=true")
    with pytest.raises(UserError, match=r"text\.view_dependent=true"):
        only(prepare_judges(perp_neg, COARSE, CPU))


def test_what_disappoints_is_said_once(models: dict[str, Path], tmp_path: Path) -> None:
    long = " ".join(["mushroom"] * 78)
    run = run_in(tmp_path, models["sd15"], "coarse.distillation.guidance_scale=1", prompt=long)
    only(prepare_judges(run, COARSE, CPU))
    cut, plain = sorted(event["message"] for event in events(run, "warning"))[::-1]
    assert "longer than the CLIP text encoder takes" in cut
    assert "and 3 more texts likewise" in cut
    assert "no guidance" in plain


def test_running_out_of_memory_names_options(models: dict[str, Path], tmp_path: Path) -> None:
    guide = only(prepare_judges(run_in(tmp_path, models["sd15"]), COARSE, CPU))
    with pytest.raises(UserError, match="checkpoint_vae"), guide.memory_advice():
        raise torch.OutOfMemoryError("no more")

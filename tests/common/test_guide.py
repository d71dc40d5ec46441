"""The guide: rows of text and cameras that belong together, every loss, schedules, kept texts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.common.config.models import PromptConfig
from maquette.common.config.priors import PriorConfig
from maquette.common.config.reading import build_config
from maquette.common.embedded.exact import ExactPrior
from maquette.common.errors import UserError
from maquette.common.guidance import prepare
from maquette.common.guidance.choose import view_config
from maquette.common.guidance.losses import distillation_gradient, hifa
from maquette.common.guidance.prepare import prepare_judges
from maquette.common.guidance.prompts import ViewPrompts, perp_neg_weights
from maquette.common.guidance.score import ScoreDistillation, clip_gradient
from maquette.common.guidance.timesteps import dreamtime_timesteps, sqrt_annealing
from maquette.common.losses import SDS, LossName
from maquette.common.priors.base import Prior, TextEmbedding
from maquette.common.priors.noise import cosine_schedule
from maquette.common.priors.pretrained import (
    LoadedPipeline,
    PretrainedPrior,
    decode_latents,
    encode_latents,
    to_pixels,
)
from maquette.common.runs.folder import Run
from maquette.common.scene.cameras import Cameras, orbit
from tests.reference.tiny_models import build

CPU = torch.device("cpu")
LOSSES: tuple[LossName, ...] = get_args(LossName)
THREE = Cameras(
    azimuth=torch.tensor([0.3, math.pi, math.radians(110)]),
    elevation=torch.tensor([0.0, 0.2, 0.1]),
    distance=torch.full((3,), 3.0),
    fovy=torch.full((3,), 0.7),
)


class Speaking(Prior):
    """The noise of a row is a number that its text alone decides, times its own x_t's mean sign.

    A row that meets another row's text, weight or camera gives another number.
    """

    space, resolution, takes_camera = "pixel", 4, True
    schedule = cosine_schedule(100)

    def __init__(self) -> None:
        self.cameras: list[Cameras | None] = []

    def encode_text(self, prompts):
        return TextEmbedding(tuple(prompts), {"row": torch.arange(len(prompts))})

    def encode_image(self, image):
        return image.permute(0, 3, 1, 2)

    def predict_noise(self, x_t, t, text, camera=None):
        self.cameras.append(camera)
        rows = torch.stack([voice(p, x_t.shape[1:]) for p in text.prompts])
        return rows * (1.0 + t.reshape(-1, 1, 1, 1) / 100.0)


def voice(prompt: str, shape: Any) -> Tensor:
    """A fixed random image a text."""
    seed = sum(ord(c) * 31**i for i, c in enumerate(prompt)) % 2**31
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guide_of(prior: Prior, text: PromptConfig | None = None, told: bool = False, **config: Any):
    text = text or PromptConfig()
    prompts = ViewPrompts.encode(prior, "a red chair", view_config(text, told))
    settings = SDS(**config)
    return ScoreDistillation(prior, prompts, settings, 10, tell_camera=told, perp_neg=text.perp_neg)


def noise_of(text: str, t: int) -> Tensor:
    return voice(text, (3, 4, 4)) * (1.0 + t / 100.0)


def test_each_view_is_judged_by_its_own_text() -> None:
    """SDS with guidance and a negative prompt, row by row, against the formula written out."""
    guide = guide_of(
        Speaking(),
        PromptConfig(negative="blurry", prompts={"back": "the back of a chair"}),
        guidance_scale=5.0,
        weight="one",
        t_min=0.4,
        t_max=0.4,
    )
    image = torch.rand(3, 4, 4, 3, requires_grad=True)
    torch.manual_seed(5)
    guide(image, THREE, 0).loss.backward()
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
    guide = guide_of(
        Speaking(),
        PromptConfig(perp_neg=True),
        guidance_scale=4.0,
        weight="one",
        t_min=0.2,
        t_max=0.2,
    )
    ctx = guide.context(THREE, 0)
    torch.manual_seed(1)
    x, noise, t = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4), torch.full((3,), 20)
    found = distillation_gradient("sds", x, t, noise, ctx)
    indices, weights = perp_neg_weights(THREE, guide.prompts.config)
    assert len({tuple(column) for column in weights.T.tolist()}) == 3  # unequal rows
    views = [f"a red chair, {view} view" for view in ("front", "side", "back", "overhead")]
    own = [views[0], views[2], views[1]]
    for row in range(3):
        e_0 = noise_of("", 20)
        d = noise_of(own[row], 20) - e_0
        push = torch.zeros_like(d)
        for i in range(2):
            n = noise_of(views[indices[i][row]], 20) - e_0
            push += weights[i, row] * (n - (n * d).sum() / (d * d).sum() * d)
        torch.testing.assert_close(found[row], e_0 + 4.0 * (d + push) - noise[row])


def test_a_prior_is_told_the_camera_only_if_asked() -> None:
    for told in (True, False):
        prior = Speaking()
        guide_of(prior, told=told)(torch.rand(3, 4, 4, 3), THREE, 0)
        assert all((camera is not None) == told for camera in prior.cameras)
        assert prior.cameras


def test_gradients_are_clipped_by_the_schedule_of_the_step() -> None:
    settings: dict[str, Any] = {"weight": "one", "guidance_scale": 9.0}
    for by in ("norm", "value"):
        plain, clipped = (
            guide_of(Speaking(), clip=clip, clip_by=by, **settings)
            for clip in (None, [(0, 0.5), (10, 0.1)])
        )
        for step, limit in ((0, 0.5), (5, 0.3)):
            grads = []
            for guide in (plain, clipped):
                image = torch.rand(3, 4, 4, 3, generator=torch.Generator().manual_seed(0))
                image.requires_grad_()
                torch.manual_seed(step)
                guide(image, THREE, step).loss.backward()
                assert image.grad is not None
                grads.append(3 * image.grad)
            torch.testing.assert_close(grads[1], clip_gradient(grads[0], limit, by))
            assert (grads[0] - grads[1]).abs().max() > 0.1


def test_timesteps_follow_their_schedules() -> None:
    prior = Speaking()
    drawn = guide_of(prior, t_min=0.2, t_max=[(0, 0.9), (9, 0.4)])
    for step, high in ((0, 90), (9, 40)):
        t = drawn.timesteps(step, 4000)
        assert (int(t.min()), int(t.max())) == (20, high)
    sqrt = guide_of(prior, timesteps="sqrt")
    for step in (0, 3, 9):
        expected = round(100 * sqrt_annealing(step, 10))
        assert sqrt.timesteps(step, 2).tolist() == [expected, expected]
    low = guide_of(prior, timesteps="sqrt", t_min=0.02, t_max=0.2)
    assert low.timesteps(9, 1).tolist() == [20]  # never above t_max
    dreamtime = guide_of(prior, timesteps="dreamtime", t_max=0.9)
    expected = dreamtime_timesteps(prior.schedule, 10, 0.02, 0.9)
    assert [int(dreamtime.timesteps(i, 3)[2]) for i in range(10)] == expected.tolist()


def test_dreamtime_needs_signal_at_every_level() -> None:
    prior = Speaking()
    prior.schedule = replace(prior.schedule, alpha=prior.schedule.alpha * 0)
    with pytest.raises(UserError, match="DreamTime"):
        guide_of(prior, timesteps="dreamtime")


def test_csd_moves_to_the_negative_prompt_over_the_stage() -> None:
    guide = guide_of(Speaking())
    assert [guide.context(THREE, step).csd_progress for step in (0, 9, 12)] == [0.0, 1.0, 1.0]
    half = guide_of(Speaking(), csd_progress=[(0, 0.0), (20, 1.0)])
    assert half.context(THREE, 5).csd_progress == 0.25


def test_guidance_follows_its_schedule() -> None:
    guide = guide_of(Speaking(), guidance_scale=[(0, 3.0), (8, 1.0)])
    assert [guide.context(THREE, step).guidance_scale for step in (0, 4, 9)] == [3.0, 2.0, 1.0]
    assert guide_of(Speaking()).context(THREE, 4).guidance_scale is None  # the loss's own


def test_options_reach_the_losses() -> None:
    changes: dict[str, Any] = {
        "guidance_scale": 3.0,
        "weight": "alpha_sigma",
        "sjc_variance_reduced": False,
        "nfsd_threshold": 0.3,
        "ism_gap": 0.1,
        "ism_stride": 0.3,
        "sdi_noise": "fixed_point",
        "sdi_steps": 4,
        "sdi_inversion_scale": 1.0,
        "sdi_gap": 0.1,
        "hifa_weight": 0.5,
        "hifa_steps": 2,
    }
    ctx = guide_of(Speaking(), **changes).context(THREE, 0)
    assert {key: getattr(ctx, key) for key in changes} == changes


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "vsd"])
def test_every_loss_runs_on_the_exact_prior(loss: LossName) -> None:
    prior = ExactPrior("pixel")
    guide = guide_of(prior, told=True, loss=loss, sdi_steps=2, t_max=0.6)
    image = torch.rand(2, 64, 64, 3, requires_grad=True)
    guided = guide(image, orbit(2), 1)
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
        options = PriorConfig(source="fake")
        loaded = LoadedPipeline(pipeline, "fake", None, options, CPU, torch.float32)
        super().__init__(loaded, nn.Identity(), "epsilon")
        self.space = "pixel" if vae is None else "latent"

    def encode_text(self, prompts):
        return TextEmbedding(tuple(prompts), {"row": torch.arange(len(prompts))})

    def text_limits(self):
        return []

    def embed(self, prompts, device):
        return {}

    def denoise(self, x_t, t, text, camera=None):
        return torch.stack([voice(p, x_t.shape[1:]) for p in text.prompts])


def hifa_of(prior: Prior, **config: Any) -> ScoreDistillation:
    return guide_of(prior, loss="hifa", guidance_scale=1.0, t_min=0.4, t_max=0.4, **config)


def judged(guide: ScoreDistillation, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the loss with respect to the image, the loss, and the noise that was drawn."""
    image = image.clone().requires_grad_()
    torch.manual_seed(7)
    guided = guide(image, THREE, 0)
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
    guide = hifa_of(Decoding(vae), hifa_weight=0.3)
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
            judged(hifa_of(prior, hifa_weight=weight), image)[0] for weight in (0.5, 0.0)
        )
        down = without - with_pixels
        x, t = prior.encode_image(image), torch.full((3,), 40)
        _, _, noise = judged(hifa_of(prior), image)
        guide = hifa_of(prior)
        e = prior.predict_noise(x, t, guide.prompts.rows(THREE))
        alpha, sigma = prior.schedule.at(t)
        goal = prior.decode_image((alpha * x + sigma * noise - sigma * e) / alpha)
        far = [
            0.5 * to_pixels(picture, 8).permute(0, 2, 3, 1) + 0.5 - goal
            for picture in (image, image + 0.1 * down)
        ]
        assert float(far[1].square().sum()) < float(far[0].square().sum())
        assert bool((down.abs().amax(dim=(1, 2, 3)) > 1e-4).all())


def test_hifa_without_pixels_decodes_nothing() -> None:
    vae, image = LinearVAE(), images(8)
    guide = hifa_of(Decoding(vae), hifa_pixels=False, hifa_weight=0.3, hifa_steps=2)
    grad, loss, noise = judged(guide, image)
    assert vae.decoded == []
    image = image.clone().requires_grad_()
    x = guide.prior.encode_image(image)
    gradient = hifa(x.detach(), torch.full((3,), 40), noise, guide.context(THREE, 0))
    expected = (x * gradient).sum() / 3
    expected.backward()
    assert torch.equal(loss, expected.detach())
    assert image.grad is not None
    assert torch.equal(grad, image.grad)


@pytest.mark.parametrize("prior", [Decoding(None), Speaking()])
def test_hifa_on_pixels_is_not_counted_twice(prior: Prior) -> None:
    image = images(prior.resolution)
    on, off = (judged(hifa_of(prior, hifa_pixels=pixels), image) for pixels in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(on, off, strict=True))


def test_no_other_loss_decodes() -> None:
    vae = LinearVAE()
    for loss in LOSSES:
        if loss not in ("vsd", "hifa"):
            guide_of(Decoding(vae), loss=loss, t_max=0.6)(images(8), THREE, 0)
    assert vae.decoded == []


def test_the_limit_holds_for_both_of_hifas_gradients() -> None:
    image, limit = images(8), 1e-3
    guide = hifa_of(Decoding(LinearVAE()), clip=limit, clip_by="value", hifa_weight=50.0)
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
    assert image.shape == (2, 8, 8, 3)
    assert vae.autocast == [True]
    with pytest.raises(ValueError, match="no VAE"):
        Decoding(None).decode_image(torch.zeros(1, 3, 8, 8))


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


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_runs_on_stable_diffusion(
    loss: LossName, models: dict[str, Path], tmp_path: Path
) -> None:
    run = run_in(tmp_path, models["sd15"], f"coarse.distillation={loss}", "coarse.text.negative=x")
    guide = prepare_judges(run, "coarse", CPU)
    image = torch.rand(3, 32, 32, 3, requires_grad=True)
    guided = guide(image, THREE, 4)
    guided.loss.backward()
    assert image.grad is not None
    assert bool(torch.isfinite(image.grad).all())
    assert float(image.grad.abs().max()) > 0
    assert guided.error > 0


def events(run: Run, name: str) -> list[dict[str, Any]]:
    lines = (run.folder / "events.jsonl").read_text("utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_texts_are_embedded_once_a_run(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(tmp_path, models["sd15"])
    first = prepare_judges(run, "coarse", CPU)
    kept = list(run.coarse.glob("text-*.safetensors"))
    assert len(kept) == 1
    assert isinstance(first.prior, PretrainedPrior)
    assert first.prior.pipeline.text_encoder is None  # freed
    loads: list[bool] = []
    real = prepare.load_pretrained
    monkeypatch.setattr(
        prepare, "load_pretrained", lambda options: (loads.append(options.text), real(options))[1]
    )
    monkeypatch.setattr(PretrainedPrior, "encode_text", lambda *_: pytest.fail("embedded again"))
    second = prepare_judges(run, "coarse", CPU)
    assert loads == [False]
    for ours, theirs in (
        (first.prompts.rows(THREE), second.prompts.rows(THREE)),
        (first.prompts.unconditional_rows(THREE), second.prompts.unconditional_rows(THREE)),
    ):
        assert ours.prompts == theirs.prompts
        assert torch.equal(ours.tensors["states"], theirs.tensors["states"])
    assert len(events(run, "prior loaded")) == 2
    assert events(run, "prior loaded")[0]["source"] == str(models["sd15"])


def test_kept_texts_belong_to_prompt_and_model(models: dict[str, Path], tmp_path: Path) -> None:
    prepare_judges(run_in(tmp_path, models["sd15"]), "coarse", CPU)
    prepare_judges(run_in(tmp_path, models["sd15"], prompt="a mushroom"), "coarse", CPU)
    assert len(list((tmp_path / "coarse").glob("text-*"))) == 2
    other = build("sd15", tmp_path / "other", seed=1)
    (tmp_path / "coarse" / "prior.json").unlink()
    prepare_judges(run_in(tmp_path, other), "coarse", CPU)
    kept = sorted((tmp_path / "coarse").glob("text-*"))
    assert len(kept) == 3
    kept[0].write_bytes(kept[0].read_bytes()[:-9])  # damaged: made again, not used
    for model, prompt in ((other, "a red chair"), (models["sd15"], "a mushroom")):
        (tmp_path / "coarse" / "prior.json").unlink()
        prepare_judges(run_in(tmp_path, model, prompt=prompt), "coarse", CPU)


def test_preparing_draws_nothing_of_the_run(models: dict[str, Path], tmp_path: Path) -> None:
    run = run_in(tmp_path, models["sd15"], "coarse.distillation=vsd")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = prepare_judges(run, "coarse", CPU).tensors()
    torch.manual_seed(4)
    second = prepare_judges(run, "coarse", CPU).tensors()
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_view_words_go_to_priors_that_are_not_told(models: dict[str, Path], tmp_path: Path) -> None:
    told = prepare_judges(run_in(tmp_path / "a", models["camera-pixel"]), "coarse", CPU)
    assert told.prompts.rows(THREE).prompts == ("a red chair",) * 3
    assert told.context(THREE, 0).camera is not None
    blind_run = run_in(tmp_path / "b", models["camera-pixel"], "coarse.prior.camera=false")
    blind = prepare_judges(blind_run, "coarse", CPU)
    assert blind.prompts.rows(THREE).prompts[1] == "a red chair, back view"
    assert blind.context(THREE, 0).camera is None
    perp_neg = run_in(tmp_path / "c", models["camera-pixel"], "coarse.text.perp_neg=true")
    with pytest.raises(UserError, match=r"text\.view_dependent=true"):
        prepare_judges(perp_neg, "coarse", CPU)


def test_what_disappoints_is_said_once(models: dict[str, Path], tmp_path: Path) -> None:
    long = " ".join(["mushroom"] * 78)
    run = run_in(tmp_path, models["sd15"], "coarse.distillation.guidance_scale=1", prompt=long)
    prepare_judges(run, "coarse", CPU)
    cut, plain = sorted(event["message"] for event in events(run, "warning"))[::-1]
    assert "longer than the CLIP text encoder takes" in cut
    assert "and 3 more texts likewise" in cut
    assert "no guidance" in plain


def test_running_out_of_memory_names_options(models: dict[str, Path], tmp_path: Path) -> None:
    guide = prepare_judges(run_in(tmp_path, models["sd15"]), "coarse", CPU)
    with pytest.raises(UserError, match="checkpoint_vae"), guide.memory_advice():
        raise torch.OutOfMemoryError("no more")

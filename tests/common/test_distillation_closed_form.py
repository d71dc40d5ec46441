"""Every distillation loss on priors whose answer is known: values against formulas.

Everything is float64 and mostly one number a sample, so that formulas can be written out.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch

from maquette.common.config.reading import build_config
from maquette.common.guidance.ask import Ask
from maquette.common.guidance.conditions import Rows
from maquette.common.guidance.score import clip_gradient
from maquette.common.losses import (
    CSD,
    LOSSES,
    Distillation,
    Gradient,
    LossName,
    WeightKind,
    weight,
)
from maquette.common.losses.ddim import ddim_denoise, ddim_invert
from maquette.common.options import values_of
from maquette.common.priors.base import Condition, Prior, TextEmbedding
from maquette.common.priors.noise import NoiseSchedule, cosine_schedule
from maquette.common.scene.cameras import Cameras, orbit
from tests.reference.closed_form import ExactGaussianCritic, FiniteSetPrior, GaussianPrior

T = 200
SCHEDULE = cosine_schedule(T)
M0, MY, MN, V = -0.4, 1.1, 0.6, 0.3
GUIDED: tuple[LossName, ...] = ("sds", "sjc", "vsd", "nfsd", "csd", "ism", "sdi", "hifa")


def number(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1), value, dtype=torch.float64)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def prior_of(texts: dict[str, tuple[float, float]]) -> GaussianPrior:
    return GaussianPrior({k: (number(m), v) for k, (m, v) in texts.items()}, SCHEDULE)


TWO = prior_of({"": (M0, V), "y": (MY, V), "n": (MN, V)})


@dataclass(frozen=True)
class Context:
    """A prior with its rows, a critic, and options that the losses which have them take."""

    prior: Prior
    rows: Rows
    critic: ExactGaussianCritic | None = None
    progress: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def loss(self, name: str) -> Any:
        kind = LOSSES[name]
        return kind(**{k: v for k, v in self.options.items() if k in kind.model_fields})

    def ask(self, name: str = "sds") -> Ask:
        loss, critic = self.loss(name), self.critic
        (scale,) = values_of(loss.guidance_scale)
        return Ask(
            self.prior,
            self.rows,
            scale,
            loss.weight,
            progress=self.progress,
            critic=critic and (lambda x_t, t: critic.predict_noise(x_t, t, self.rows.wanted, None)),
            untold_critic=critic and (lambda x_t, t: 0.5 * x_t),
        )

    def having(self, **options: Any) -> "Context":
        return replace(self, options=self.options | options)

    def told(self, **rows: Any) -> "Context":
        return replace(self, rows=replace(self.rows, **rows))


def rows_of(count: int, prior: Prior, cameras: Cameras | None = None) -> Rows:
    wanted, empty = (Condition(prior.encode_text([p] * count), cameras) for p in ("y", ""))
    return Rows(wanted, empty)


def context(
    count: int,
    prior: Prior = TWO,
    camera: Cameras | None = None,
    critic: ExactGaussianCritic | None = None,
    **options: Any,
) -> Context:
    return Context(prior, rows_of(count, prior, camera), critic, options=options)


def whole_gradient(
    name: str,
    x: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
    ctx: Context,
    image: Any = None,
) -> Gradient:
    image = torch.zeros(len(x), 1, 1, 3) if image is None else image
    return ctx.loss(name).gradient(x.detach(), image, t, noise, ctx.ask(name))


def distillation_gradient(
    name: str, x: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, ctx: Context
) -> torch.Tensor:
    return whole_gradient(name, x, t, noise, ctx).x


sds, sjc, vsd, nfsd, csd, ism, sdi, hifa = (partial(distillation_gradient, name) for name in GUIDED)


def level(t: int) -> tuple[float, float, float]:
    """alpha, sigma and D = alpha^2 V + sigma^2."""
    a, s = float(SCHEDULE.alpha[t]), float(SCHEDULE.sigma[t])
    return a, s, a * a * V + s * s


def mean_gradient(name: LossName, x: float, t: int, ctx: Context) -> float:
    """The expectation over noise: exact with a pair of opposite noises, the prior being linear."""
    noise = column(0.7, -0.7)
    found = distillation_gradient(name, column(x, x), torch.tensor([t, t]), noise, ctx)
    return float(found.mean())


class Counting(GaussianPrior):
    """Remembers how many rows each call had."""

    def predict_noise(self, x_t, t, condition):
        self.rows = [*getattr(self, "rows", []), len(condition)]
        return super().predict_noise(x_t, t, condition)


# -- 1: a Gaussian ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", get_args(WeightKind))
@pytest.mark.parametrize("t", [5, 100, 190])
def test_sds_on_a_gaussian_has_its_formula(kind: WeightKind, t: int) -> None:
    a, s, d = level(t)
    w = float(weight(kind, torch.tensor(a).double(), torch.tensor(s).double()))
    ctx = context(2, guidance_scale=1.0, weight=kind)
    for x in (-2.0, MY, 3.0):
        expected = w * s * a * (x - MY) / d
        assert mean_gradient("sds", x, t, ctx) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_sds_descends_to_the_mean_of_a_gaussian() -> None:
    g = torch.Generator().manual_seed(0)
    ctx = context(64, guidance_scale=1.0, weight="signal")
    x = torch.full((1, 1, 1, 1), -3.0, dtype=torch.float64)
    for step in range(400):
        t = torch.randint(4, 196, (64,), generator=g)
        noise = torch.randn(64, 1, 1, 1, generator=g, dtype=torch.float64)
        gradient = sds(x.expand(64, -1, -1, -1), t, noise, ctx).mean(0)
        x = x - gradient / (1 + 0.1 * step)
    assert float(x) == pytest.approx(MY, abs=0.02)


# -- 2: the convention of the guidance scale -------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 7.5, 100.0])
@pytest.mark.parametrize("name", ["sds", "sjc", "hifa", "nfsd", "vsd"])
def test_fixed_point_of_guidance(name: LossName, scale: float) -> None:
    """x* = m_0 + s (m_y - m_0) for equal variances, whatever t, and the gradient points at it."""
    fixed = M0 + scale * (MY - M0)
    for t in (3, 30, 39) if name == "nfsd" else (5, 60, 120, 195):
        for x in (fixed - 1.0, fixed, fixed + 1.0):
            critic = ExactGaussianCritic(SCHEDULE)
            critic.update(column(x - V**0.5, x + V**0.5))  # mean x, variance V
            ctx = context(2, guidance_scale=scale, weight="one", critic=critic)
            a, s, d = level(t)
            expected = s * a * (x - fixed) / d * (1.01 if name == "hifa" else 1.0)
            # float32 levels and a scale of 100 leave a few parts in a million.
            assert mean_gradient(name, x, t, ctx) == pytest.approx(expected, abs=3e-6 * (1 + scale))


@pytest.mark.parametrize("name", GUIDED)
def test_the_scale_multiplies_text_minus_empty_in_every_loss(name: LossName) -> None:
    """gradient(s) - gradient(1) = (s - 1) w(t) (e_y - e_0), and s = 1 is e_y alone."""
    t, x, noise = torch.tensor([90, 150]), column(0.3, -0.8), column(0.4, -1.3)
    critic = ExactGaussianCritic(SCHEDULE)
    critic.update(x)
    ctx = context(2, weight="alpha_sigma", critic=critic, steps=3)
    plain, guided = (
        distillation_gradient(name, x, t, noise, ctx.having(guidance_scale=scale))
        for scale in (1.0, 3.0)
    )
    for row in range(2):
        a, s, d = level(int(t[row]))
        expected = 2.0 * a * s * s * a * (M0 - MY) / d * (1.01 if name == "hifa" else 1.0)
        assert float((guided - plain)[row]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["sds", "sjc", "vsd", "hifa"])
def test_scale_one_never_asks_for_the_empty_prompt(name: LossName) -> None:
    prior = Counting({"": (number(M0), V), "y": (number(MY), V)}, SCHEDULE)
    critic = ExactGaussianCritic(SCHEDULE)
    critic.update(column(0.0, 1.0))
    ctx = context(2, prior, guidance_scale=1.0, critic=critic)
    t, x = torch.tensor([50, 80]), column(0.3, -0.2)
    distillation_gradient(name, x, t, column(0.1, 0.2), ctx)
    assert prior.rows == [2]
    prior.rows.clear()
    distillation_gradient(name, x, t, column(0.1, 0.2), ctx.having(guidance_scale=2.0))
    assert prior.rows == [4]


def test_the_negative_prompt_replaces_the_empty_one_in_guidance() -> None:
    ctx = context(2, guidance_scale=7.5, weight="one")
    ctx = ctx.told(negative=Condition(TWO.encode_text(["n", "n"])))
    assert mean_gradient("sds", MN + 7.5 * (MY - MN), 80, ctx) == pytest.approx(0.0, abs=1e-5)


PLANE = {"": (0.0, 0.0), "y": (1.0, 0.0), "n": (0.5, 1.0)}


def plane_context(**options: Any) -> Context:
    """Means in a plane; the negative pushes a quarter of its share across, which is (0, 1)."""
    prior = GaussianPrior(
        {k: (torch.tensor(m).double().reshape(2, 1, 1), V) for k, m in PLANE.items()}, SCHEDULE
    )
    ctx = context(1, prior, weight="one", **options)
    repelled = (Condition(prior.encode_text(["n"])),)
    return ctx.told(repelled=repelled, weights=torch.tensor([[-0.25]]))


def test_perp_neg_enters_every_guided_loss() -> None:
    """In one dimension nothing is perpendicular; with two, the negative pushes only across."""
    ctx = plane_context(guidance_scale=2.0)
    x, t = torch.zeros(1, 2, 1, 1, dtype=torch.float64), torch.tensor([80])
    a, s, d = level(80)
    found = sds(x, t, torch.zeros_like(x), ctx).flatten() / (s * a / d)
    assert found.tolist() == pytest.approx([-2.0, 0.5], abs=1e-5)  # m* = 2 (1, 0) - 2/4 (0, 1)
    with pytest.raises(ValueError, match="weights"):
        ctx.told(weights=None)


@pytest.mark.parametrize("name", GUIDED)
def test_perp_neg_pushes_across_in_every_loss(name: LossName) -> None:
    """What it adds is s w(t) times -1/4 of the part of e_n - e_0 across e_y - e_0."""
    critic = ExactGaussianCritic(SCHEDULE)
    critic.update(torch.tensor([-1.0, 2.0]).double().reshape(2, 1, 1, 1).expand(2, 2, 1, 1))
    options = {"steps": 3, "inversion_scale": 0.0}
    ctx = plane_context(guidance_scale=3.0, critic=critic, **options)
    plain = ctx.told(repelled=(), weights=None)
    x, t = torch.full((1, 2, 1, 1), 0.4, dtype=torch.float64), torch.tensor([80])
    noise = torch.full_like(x, 0.3)
    change = distillation_gradient(name, x, t, noise, ctx) - distillation_gradient(
        name, x, t, noise, plain
    )
    a, s, d = level(80)
    across = -0.25 * s * a * (0.0 - 1.0) / d  # noise of a mean m is s (x_t - a m) / d
    expected = [0.0, 3.0 * across * (1.01 if name == "hifa" else 1.0)]
    assert change.flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_without_anything_to_push_from_the_direction_is_the_difference() -> None:
    ask = context(2).ask()
    noises = ask.noise(column(0.1, 0.2), torch.tensor([20, 90]), "wanted", "empty")
    assert noises.keys() == {"wanted", "empty"}
    assert torch.equal(ask.direction(noises, noises["empty"]), noises["wanted"] - noises["empty"])


# -- 3: classifier score distillation --------------------------------------------------------------


def test_csd_is_constant_and_has_no_fixed_point() -> None:
    t = 110
    a, s, d = level(t)
    ctx = context(3, weight="sigma2")
    expected = s * s * s * a * (M0 - MY) / d
    for x in (-50.0, 0.0, 50.0):
        found = csd(column(x, x, x), torch.tensor([t] * 3), column(-2.0, 0.1, 1.4), ctx)
        assert found.flatten().tolist() == pytest.approx([expected] * 3, rel=1e-5)


@pytest.mark.parametrize(("progress", "rows"), [(0.0, 4), (0.25, 6), (0.5, 6), (1.0, 4)])
def test_csd_moves_from_the_empty_to_the_negative_prompt(progress: float, rows: int) -> None:
    prior = Counting({k: (number(m), V) for k, m in (("", M0), ("y", MY), ("n", MN))}, SCHEDULE)
    negative = prior.encode_text(["n", "n"])
    ctx = context(2, prior, weight="one").told(negative=Condition(negative))
    ctx = replace(ctx, progress=progress)
    a, s, d = level(60)
    against = (1 - progress) * M0 + progress * MN
    assert mean_gradient("csd", 0.2, 60, ctx) == pytest.approx(s * a * (against - MY) / d, rel=1e-5)
    assert prior.rows == [rows]
    fixed = replace(ctx, progress=0.9).having(progress=progress)  # the option's own word counts
    assert mean_gradient("csd", 0.2, 60, fixed) == mean_gradient("csd", 0.2, 60, ctx)
    with pytest.raises(ValueError, match="progress: expected values between 0 and 1"):
        CSD(progress=1.5)


# -- 4: particles ----------------------------------------------------------------------------------


def particles_after(name: LossName, steps: int = 600, count: int = 512) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    prior = prior_of({"": (0.0, 1.0), "y": (1.3, 0.7**2)})
    critic = ExactGaussianCritic(SCHEDULE)
    ctx = context(count, prior, guidance_scale=1.0, weight="signal", critic=critic)
    x = -1.0 + 1.5 * torch.randn(count, 1, 1, 1, generator=g, dtype=torch.float64)
    for step in range(steps):
        t = torch.randint(4, 160, (count,), generator=g)
        noise = torch.randn(count, 1, 1, 1, generator=g, dtype=torch.float64)
        critic.update(x)
        x = x - distillation_gradient(name, x, t, noise, ctx) / (1 + 0.1 * step)
    return x


def test_sds_collapses_particles_and_vsd_keeps_the_distribution() -> None:
    collapsed, kept = particles_after("sds"), particles_after("vsd")
    assert float(collapsed.mean()) == pytest.approx(1.3, abs=0.02)
    assert float(collapsed.std()) < 0.12
    assert float(kept.mean()) == pytest.approx(1.3, abs=0.02)
    assert float(kept.std()) == pytest.approx(0.7, abs=0.02)


def test_vsd_rests_where_the_particles_are_the_prior() -> None:
    critic = ExactGaussianCritic(SCHEDULE)
    critic.update(column(MY - V**0.5, MY + V**0.5))
    ctx = context(2, guidance_scale=1.0, critic=critic)
    found = vsd(column(0.3, 2.0), torch.tensor([40, 150]), column(1.2, -0.7), ctx)
    assert float(found.abs().max()) < 1e-12
    with pytest.raises(ValueError, match="critic"):
        vsd(column(0.3), torch.tensor([40]), column(1.2), context(1))
    with pytest.raises(ValueError, match="update"):
        vsd(column(0.3), torch.tensor([40]), column(1.2), context(1, critic=fresh_critic()))


def fresh_critic() -> ExactGaussianCritic:
    return ExactGaussianCritic(SCHEDULE)


# -- 5: average or mode ----------------------------------------------------------------------------


def expected_sds_of_two_images(x: float, half: float, t: int) -> float:
    """E over the noise of SDS's gradient for images at +-half, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(180)
    pair = torch.tensor([-half, half], dtype=torch.float64).reshape(2, 1, 1, 1)
    prior = FiniteSetPrior({"y": pair}, SCHEDULE)
    count = len(nodes)
    ctx = context(count, prior, guidance_scale=1.0, weight="signal")
    noise = column(*nodes.tolist())
    found = sds(torch.full_like(noise, x), torch.full((count,), t), noise, ctx).flatten()
    return float((found * torch.from_numpy(weights)).sum() / weights.sum())


def test_two_images_average_below_1_461_and_one_of_them_above() -> None:
    t = 120
    a, s, _ = level(t)
    low, high = 1.0, 2.0
    for _ in range(14):  # the average stops being stable where the slope at it changes sign
        k = 0.5 * (low + high)
        half = k * s / a
        stable = expected_sds_of_two_images(1e-3 * half, half, t) > 0
        low, high = (k, high) if stable else (low, k)
    assert 0.5 * (low + high) == pytest.approx(1.461, abs=1e-3)
    for k, goal in ((1.3, 0.0), (3.0, 1.0)):
        half = k * s / a
        x = 0.2 * half
        for _ in range(60):
            x -= expected_sds_of_two_images(x, half, t)
        assert x / half == pytest.approx(goal, abs=0.03)


# -- 6: a prior that knows the view ----------------------------------------------------------------


class TrueViewPrior(Prior):
    """Knows the one true view of each camera: an image that shows the camera's azimuth."""

    space, resolution, takes_camera, schedule = "pixel", 4, True, SCHEDULE

    def encode_text(self, prompts):
        return TextEmbedding(tuple(prompts), {"row": torch.arange(len(prompts))})

    def encode_image(self, image):
        return image.permute(0, 3, 1, 2) * 2 - 1

    @staticmethod
    def view(camera: Cameras) -> torch.Tensor:
        ramp = torch.linspace(0.1, 0.9, 48, dtype=torch.float64).reshape(1, 3, 4, 4)
        return ramp * (1.0 + camera.azimuth.double()[:, None, None, None])

    def predict_noise(self, x_t, t, condition):
        assert condition.cameras is not None
        alpha, sigma = (part.to(x_t) for part in self.schedule.at(t))
        return (x_t - alpha * self.view(condition.cameras)) / sigma


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_sds_with_the_true_view_is_a_weighted_l2_to_it(scale: float) -> None:
    g = torch.Generator().manual_seed(4)
    prior, camera = TrueViewPrior(), orbit(5)
    ctx = context(5, prior, camera=camera, guidance_scale=scale)
    t = torch.tensor([10, 60, 100, 150, 190])
    x = torch.randn(5, 3, 4, 4, generator=g, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(5, 3, 4, 4, generator=g, dtype=torch.float64)
    gradient = distillation_gradient("sds", x, t, noise, ctx)
    alpha, sigma = (part.double() for part in SCHEDULE.at(t))
    l2 = 0.5 * (sigma**2 * alpha / sigma * (x - TrueViewPrior.view(camera)) ** 2).sum()
    (expected,) = torch.autograd.grad(l2, x)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
    assert not gradient.requires_grad
    (x * gradient).sum().div(5).backward()  # how a stage applies it
    torch.testing.assert_close(x.grad, gradient / 5)


# -- the other losses ------------------------------------------------------------------------------


def test_sjc_is_the_score_of_the_noised_input() -> None:
    t, x, noise = torch.tensor([30, 150]), column(0.4, -1.0), column(0.6, 1.1)
    ctx = context(2, guidance_scale=1.0)
    for reduced in (True, False):
        found = sjc(x, t, noise, ctx.having(variance_reduced=reduced)).flatten()
        for row in range(2):
            a, s, _ = level(int(t[row]))
            noised, spread = float(x[row]) + s / a * float(noise[row]), s / a
            denoised = MY + V / (V + spread**2) * (noised - MY)
            origin = float(x[row]) if reduced else noised
            assert float(found[row]) == pytest.approx(-(denoised - origin) / spread, rel=1e-5)
    torch.testing.assert_close(sjc(x, t, noise, ctx), sds(x, t, noise, ctx.having(weight="one")))


def test_nfsd_changes_its_domain_correction_at_a_fifth_of_the_schedule() -> None:
    t, x, noise = torch.tensor([39, 40]), column(0.4, 0.4), column(0.6, 0.6)
    plain = context(2, weight="one", guidance_scale=3.0)
    ctx = plain.told(negative=Condition(TWO.encode_text(["n", "n"])))
    found = nfsd(x, t, noise, ctx).flatten().tolist()
    missing = nfsd(x, t, noise, plain).flatten().tolist()
    for row in range(2):
        a, s, d = level(int(t[row]))
        x_t = a * 0.4 + s * 0.6
        e_y, e_0, e_n = (s * (x_t - a * m) / d for m in (MY, M0, MN))
        domain = e_0 if row == 0 else e_0 - e_n
        assert found[row] == pytest.approx(3.0 * (e_y - e_0) + domain, rel=1e-5)
        alone = e_0 if row == 0 else 0.0
        assert missing[row] == pytest.approx(3.0 * (e_y - e_0) + alone, rel=1e-5)


def scalar_noise(x_t: float, t: int, scale: float) -> float:
    a, s, d = level(t)
    return s * (x_t - a * (M0 + scale * (MY - M0))) / d


def scalar_ddim(x: float, ladder: list[int], scale: float) -> float:
    """DDIM from a clean x (level 1, 0; asked at timestep 0) up a ladder of timesteps."""
    a, s, now = 1.0, 0.0, 0
    for t in ladder:
        e = scalar_noise(x, now, scale)
        (a_to, s_to, _), now = level(t), t
        x = a_to * (x - s * e) / a + s_to * e
        a, s = a_to, s_to
    return x


def test_ism_equals_the_scalar_loop() -> None:
    t, x = torch.tensor([130, 55]), column(0.4, -0.9)
    ctx = context(2, guidance_scale=7.5)
    found = ism(x, t, column(0.0, 0.0), ctx).flatten().tolist()
    for row in range(2):
        end = int(t[row])
        below = end - 10  # the gap is 5% of 200; strides of at most 40 up to 120 make 3 steps
        ladder = [round(below * k / 3) for k in (1, 2, 3)]
        x_s = scalar_ddim(float(x[row]), ladder, 0.0)
        e_s = scalar_noise(x_s, below, 0.0)
        (a0, s0, _), (a, s, _) = level(below), level(end)
        x_t = a * (x_s - s0 * e_s) / a0 + s * e_s
        expected = s / a * (scalar_noise(x_t, end, 7.5) - e_s)
        assert found[row] == pytest.approx(expected, rel=1e-5)
    other_noise = ism(x, t, column(3.0, -3.0), ctx).flatten().tolist()
    assert other_noise == found


@pytest.mark.parametrize("gap", [0.0, 0.4 / T])
def test_ism_takes_at_least_one_timestep(gap: float) -> None:
    """With none, it would step from a level without signal to itself: 0 / 0 in a flow model."""
    t, x = torch.tensor([130, 55]), column(0.4, -0.9)
    found, one = (ism(x, t, x, context(2, gap=g)) for g in (gap, 1.0 / T))
    assert torch.equal(found, one)


def test_ism_inverts_with_the_empty_prompt_whatever_the_negative_one() -> None:
    t, x = torch.tensor([130, 55]), column(0.4, -0.9)
    negative = Condition(TWO.encode_text(["n", "n"]))
    for scale in (1.0, 7.5):
        ctx = context(2, guidance_scale=scale)
        change = ism(x, t, x, ctx.told(negative=negative)) - ism(x, t, x, ctx)
        for row in range(2):  # only e_0 in e^s(x_t) gives way to e_n
            a, s, d = level(int(t[row]))
            expected = s / a * (1.0 - scale) * s * a * (M0 - MN) / d
            assert float(change[row]) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_sdi_by_inversion_equals_the_scalar_loop() -> None:
    t, x = torch.tensor([139, 50]), column(0.4, -0.9)
    found = sdi(x, t, column(9.0, 9.0), context(2)).flatten().tolist()
    for row in range(2):  # 10 steps over the schedule are 7 up to t = 139
        end = int(t[row])
        x_t = scalar_ddim(float(x[row]), [round(end * k / 7) for k in range(1, 8)], -7.5)
        a, s, _ = level(end)
        x0_hat = (x_t - s * scalar_noise(x_t, end, 7.5)) / a
        assert found[row] == pytest.approx(float(x[row]) - x0_hat, rel=1e-5)


def test_sdi_on_an_image_retraces_ddim() -> None:
    """Steps of size 1 on x itself, from DDIM's first estimate on, are DDIM's estimates."""
    gap, start = 10, 150
    prior = prior_of({"": (0.0, 1.0), "y": (1.3, 1.4)})
    ctx = context(2, prior, guidance_scale=1.0, noise="fixed_point", gap=gap / T, steps=300)
    x_t = column(0.9, -1.7)
    estimates = []
    for t in range(start, 0, -gap):  # DDIM, written out
        a, s = (float(part[t]) for part in (SCHEDULE.alpha, SCHEDULE.sigma))
        e = s * (x_t - a * 1.3) / (a * a * 1.4 + s * s)
        estimates.append((x_t - s * e) / a)
        a_to, s_to = (float(part[t - gap]) for part in (SCHEDULE.alpha, SCHEDULE.sigma))
        x_t = a_to * estimates[-1] + s_to * e
    x = estimates[0]
    for t, estimate in zip(range(start - gap, 0, -gap), estimates[1:], strict=True):
        x = x - sdi(x, torch.tensor([t, t]), column(0.3, -0.8), ctx)
        torch.testing.assert_close(x, estimate, rtol=1e-4, atol=1e-6)
    assert float((estimates[-1] - estimates[0]).abs().min()) > 0.1


def test_ddim_there_and_back_returns() -> None:
    ctx, t, x = context(2).ask(), torch.tensor([120, 150]), column(0.4, -0.9)
    x_t = ddim_invert(x, t, 120, 1.0, ctx)
    torch.testing.assert_close(ddim_denoise(x_t, t, 120, 1.0, ctx), x, rtol=0.02, atol=0.02)
    for row in range(2):  # the exact flow keeps (x_t - a m) / sqrt(D)
        a, _, d = level(int(t[row]))
        exact = a * MY + (d / V) ** 0.5 * (float(x[row]) - MY)
        assert float(x_t[row]) == pytest.approx(exact, rel=0.02, abs=0.02)
    for function in (ddim_invert, ddim_denoise):
        with pytest.raises(ValueError, match="steps"):
            function(x, t, 0, 1.0, ctx)


def test_hifa_adds_the_residual_of_the_denoised_estimate() -> None:
    t, x, noise = torch.tensor([60, 140]), column(0.4, -0.9), column(0.5, -0.2)
    ctx = context(2, guidance_scale=3.0, image_weight=0.5)
    plain = sds(x, t, noise, ctx)
    torch.testing.assert_close(hifa(x, t, noise, ctx), 1.5 * plain, rtol=1e-6, atol=1e-9)
    several = hifa(x, t, noise, ctx.having(denoising_steps=3)) - plain
    for row in range(2):
        estimate = three_step_estimate(float(x[row]), float(noise[row]), int(t[row]))
        a, s, _ = level(int(t[row]))
        expected = 0.5 * s * s * a / s * (float(x[row]) - estimate)
        assert float(several[row]) == pytest.approx(expected, rel=1e-5)


def three_step_estimate(x: float, noise: float, end: int) -> float:
    """The clean x that three steps of DDIM at scale 3 reach."""
    a, s, _ = level(end)
    y = a * x + s * noise
    for now, to in ((end, round(end * 2 / 3)), (round(end * 2 / 3), round(end / 3))):
        e = scalar_noise(y, now, 3.0)
        (a0, s0, _), (a1, s1, _) = level(now), level(to)
        y = a1 * (y - s0 * e) / a0 + s1 * e
    a1, s1, _ = level(round(end / 3))
    return (y - s1 * scalar_noise(y, round(end / 3), 3.0)) / a1


class Decoding(GaussianPrior):
    """Says that half of x is the image's every number."""

    def decode_image(self, x):
        return (0.5 * x).expand(-1, 3, 2, 2).permute(0, 2, 3, 1)


def test_hifa_looks_at_pixels_where_something_decodes() -> None:
    """In x it is SDS for one step; in the image it leads to what the estimate decodes to."""
    prior = Decoding({k: (number(m), V) for k, m in (("", M0), ("y", MY))}, SCHEDULE)
    t, x, noise = torch.tensor([60, 140]), column(0.4, -0.9), column(0.5, -0.2)
    image = torch.full((2, 2, 2, 3), 0.7, dtype=torch.float64)
    ctx = context(2, prior, guidance_scale=3.0)
    once = whole_gradient("hifa", x, t, noise, ctx, image)
    torch.testing.assert_close(once.x, sds(x, t, noise, ctx), rtol=1e-6, atol=1e-9)
    found = whole_gradient("hifa", x, t, noise, ctx.having(denoising_steps=3), image)
    assert found.image is not None
    for row in range(2):
        estimate = three_step_estimate(float(x[row]), float(noise[row]), int(t[row]))
        a, s, _ = level(int(t[row]))
        assert float(found.x[row]) == pytest.approx(
            s * s * a / s * (float(x[row]) - estimate), rel=1e-5
        )
        expected = 0.01 * s * s * a / s * (0.7 - 0.5 * estimate)
        torch.testing.assert_close(
            found.image[row], torch.full((2, 2, 3), expected).double(), rtol=1e-5, atol=1e-12
        )
    off = whole_gradient("hifa", x, t, noise, ctx.having(pixels=False), image)
    assert off.image is None
    torch.testing.assert_close(off.x, 1.01 * once.x, rtol=1e-6, atol=1e-9)


PUBLISHED = {
    "sds": (101.0, "sigma2"), "sjc": (100.0, "one"), "vsd": (7.5, "sigma2"),
    "nfsd": (7.5, "sigma2"), "csd": (1.0, "sigma2"), "ism": (7.5, "signal"),
    "sdi": (7.5, "signal"), "hifa": (100.0, "sigma2"), "recon": (50.0, "one"),
}  # fmt: skip


def test_every_name_reaches_its_loss_with_its_published_choices() -> None:
    assert get_args(LossName) == tuple(LOSSES) == (*GUIDED, "recon")
    critic = ExactGaussianCritic(SCHEDULE)
    critic.update(column(-1.0, 2.0))
    t, x, noise = torch.tensor([60, 140]), column(0.4, -0.9), column(0.5, -0.2)
    found = []
    for name in get_args(LossName):
        ctx = context(2, critic=critic)
        gradient = distillation_gradient(name, x, t, noise, ctx)
        scale, kind = PUBLISHED[name]
        explicit = ctx.having(guidance_scale=scale, weight=kind)
        assert torch.equal(gradient, distillation_gradient(name, x, t, noise, explicit))
        found.append(gradient)
    for i, one in enumerate(found):
        assert not any(torch.allclose(one, other) for other in found[i + 1 :])


class FourTogether(GaussianPrior):
    """A Gaussian prior that says that it denoises four views together."""

    group = 4


@pytest.mark.parametrize("rescale", [0.0, 0.5, 1.0])
def test_reconstruction_by_hand(rescale: float) -> None:
    """x - x0, x0 brought towards the unguided one's spread over each run of four views."""
    mean = torch.tensor([0.2, -0.4, 1.0], dtype=torch.float64).reshape(3, 1, 1)
    texts = {"": (0.0 * mean, V), "y": (mean, V)}
    prior = FourTogether(texts, SCHEDULE)
    wanted, empty = (Condition(prior.encode_text([name] * 8)) for name in ("y", ""))
    torch.manual_seed(0)
    x = torch.randn(8, 3, 1, 1, dtype=torch.float64)
    noise, t = torch.randn_like(x), torch.full((8,), 90)
    loss = LOSSES["recon"](guidance_scale=6.0, rescale=rescale)
    ask = Ask(prior, Rows(wanted, empty), 6.0, "one")
    found = loss.gradient(x, torch.zeros(8, 1, 1, 3), t, noise, ask).x
    a, s, d = level(90)
    x_t = a * x + s * noise
    e_y, e_0 = (s * (x_t - a * m) / d for m in (mean, 0.0 * mean))
    x0_y = (x_t - s * e_y) / a
    x0 = (x_t - s * (e_0 + 6.0 * (e_y - e_0))) / a
    for run in (slice(0, 4), slice(4, 8)):
        factor = x0_y[run].flatten().std() / x0[run].flatten().std()
        mixed = x0[run] * (rescale * factor + 1.0 - rescale)
        torch.testing.assert_close(found[run], x[run] - mixed, rtol=1e-5, atol=1e-6)
    if rescale == 0.0:  # SDS with w = sigma / alpha
        plain = LOSSES["sds"](guidance_scale=6.0, weight="signal")
        same = Ask(prior, Rows(wanted, empty), 6.0, "signal")
        sds_gradient = plain.gradient(x, torch.zeros(8, 1, 1, 3), t, noise, same).x
        torch.testing.assert_close(found, sds_gradient, rtol=1e-5, atol=1e-6)


COMMON = ({"guidance_scale": 3.0}, {"weight": "alpha_sigma"})
OWN: dict[str, tuple[dict[str, Any], ...]] = {
    "sds": (),
    "sjc": ({"variance_reduced": False},),
    "vsd": ({"entropy": 0.5},),
    "nfsd": ({"threshold": 0.3},),
    "csd": ({"progress": 1.0},),
    "ism": ({"gap": 0.1}, {"stride": 0.3}),
    "sdi": ({"noise": "fixed_point"}, {"steps": 4}, {"inversion_scale": 1.0}),
    "hifa": ({"image_weight": 0.5}, {"denoising_steps": 2}, {"pixels": False}),
}


@pytest.mark.parametrize("name", GUIDED)
def test_every_option_reaches_its_loss(name: LossName) -> None:
    """From the configuration's words to another gradient; VSD's critic is told in its own tests."""
    prior = Decoding({k: (number(m), V) for k, m in (("", M0), ("y", MY), ("n", MN))}, SCHEDULE)
    critic = ExactGaussianCritic(SCHEDULE)
    critic.update(column(-1.0, 2.0))
    ctx = context(2, prior, critic=critic)
    ctx = ctx.told(negative=Condition(prior.encode_text(["n", "n"])))
    t, x, noise = torch.tensor([50, 140]), column(0.4, -0.9), column(0.5, -0.2)
    image = torch.full((2, 2, 2, 3), 0.7, dtype=torch.float64)

    def given(**options: Any) -> torch.Tensor:
        base = {"coarse": {"distillation": {"loss": name, **options}}}
        loss = build_config("a red chair", base=base).coarse.distillation
        assert loss == LOSSES[name](**options)
        found = loss.gradient(x, image, t, noise, ctx.having(**options).ask(name))
        parts = [found.x, torch.zeros_like(image) if found.image is None else found.image]
        return torch.cat([part.flatten() for part in parts])

    plain = given()
    for options in (*COMMON, *OWN[name]):
        changed = given(**options)
        assert bool(torch.isfinite(changed).all()), options
        assert not torch.allclose(changed, plain, rtol=1e-4), options
    if name == "sdi":  # the gap is the fixed point's alone
        assert torch.equal(given(gap=0.1), plain)
        near, far = (given(noise="fixed_point", gap=gap) for gap in (0.05, 0.1))
        assert not torch.allclose(far, near, rtol=1e-3)
    tried = {key for options in (*OWN[name], *({"gap": 0.1},) * (name == "sdi")) for key in options}
    own = LOSSES[name].model_fields.keys() - Distillation.model_fields.keys()
    assert tried == own - {"critic"}


def test_dreamfusion_counts_from_the_prompt_and_we_from_the_empty_one() -> None:
    """(1 + omega) e_y - omega e_0 with omega = 100 is what SDS does by default."""
    x, t, noise = column(0.4), torch.tensor([90]), column(0.3)
    a, s, d = level(90)
    x_t = a * 0.4 + s * 0.3
    e_y, e_0 = (s * (x_t - a * m) / d for m in (MY, M0))
    expected = s * s * (101 * e_y - 100 * e_0 - 0.3)
    assert float(sds(x, t, noise, context(1))) == pytest.approx(expected, rel=1e-5)


def test_guided_noise_skips_what_has_no_share() -> None:
    prior = Counting({"": (number(M0), V), "y": (number(MY), V)}, SCHEDULE)
    ask, x_t, t = context(2, prior).ask(), column(0.1, 0.2), torch.tensor([20, 90])
    for scale, rows in ((0.0, 2), (1.0, 2), (-7.5, 4)):
        prior.rows = []
        found = ask.guided(x_t, t, scale).flatten().tolist()
        expected = [scalar_noise(float(x_t[i]), int(t[i]), scale) for i in range(2)]
        assert found == pytest.approx(expected, rel=1e-5)
        assert prior.rows == [rows]


def test_gradients_are_clipped_by_norm_or_value() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    rms = (12.5**0.5, 0.125**0.5)
    held = clip_gradient(gradient, 1.0)
    torch.testing.assert_close(held[0], gradient[0] / rms[0])
    assert torch.equal(held[1], gradient[1])
    assert clip_gradient(gradient, 3.5, by="value").tolist()[0] == [3.0, 3.5]
    assert clip_gradient(gradient, None) is gradient
    with pytest.raises(ValueError, match="limit"):
        clip_gradient(gradient, 0.0)


def test_flow_levels_keep_the_formula() -> None:
    """Nothing assumes alpha^2 + sigma^2 = 1."""
    sigma = torch.linspace(0.05, 0.95, 10)
    schedule = NoiseSchedule(1 - sigma, sigma)
    prior = GaussianPrior({"": (number(M0), V), "y": (number(MY), V)}, schedule)
    ctx = context(2, prior, guidance_scale=7.5, weight="one")
    a, s = float(schedule.alpha[4]), float(schedule.sigma[4])
    fixed = M0 + 7.5 * (MY - M0)
    expected = s * a * (2.0 - fixed) / (a * a * V + s * s)
    assert mean_gradient("sds", 2.0, 4, ctx) == pytest.approx(expected, rel=1e-5)

"""Score distillation: what a prior makes of a render, as a gradient with respect to x.

Every loss is one function `(x, t, noise, ctx) -> gradient`. x is what `Prior.encode_image` made of
the render, `[B, C, h, w]`; t int64 `[B]`; noise is standard normal and shaped like x; the gradient
is shaped like x and detached. The caller applies it as `(x * gradient).sum() / B`, so that it
reaches the scene through the renderer and the image encoder, never through the prior.

Symbols: `x_t = alpha x + sigma e`, e the noise, e_y / e_0 / e_n the prior's noise with the prompt,
without text and with the negative prompt, `e^s = e_0 + s (e_y - e_0)` the guided one,
`x0_hat = (x_t - sigma e_hat) / alpha`, w(t) the weight. A negative prompt takes the place of e_0 in
e^s wherever a loss has no e_n of its own, as diffusers has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, assert_never

import torch
from torch import Tensor

from ..priors.base import Prior, TextEmbedding
from ..priors.closed_form import gaussian_denoise
from ..priors.noise import NoiseSchedule
from ..scene.cameras import Cameras
from .mixing import guide, perp_neg, predict
from .timesteps import WeightKind, weight

LossName = Literal["sds", "sjc", "vsd", "nfsd", "csd", "ism", "sdi", "hifa"]


class PaperChoice(NamedTuple):
    """The guidance scale and the weight w(t) a loss was published with.

    Where papers and the code released with them leave room: DreamFusion's omega = 100 stands in
    `(1 + omega) e_y - omega e_0` and is s = 101 here; SJC, VSD, NFSD, ISM and HiFA count as we do.
    CSD's released code has w = 1 for its first stage and sigma^2 for its second; HiFA's has a
    constant weight of the residual, our "signal".
    """

    guidance_scale: float
    weight: WeightKind


PAPER: dict[LossName, PaperChoice] = {
    "sds": PaperChoice(100.0, "sigma2"),
    "sjc": PaperChoice(100.0, "one"),
    "vsd": PaperChoice(7.5, "sigma2"),
    "nfsd": PaperChoice(7.5, "sigma2"),
    "csd": PaperChoice(1.0, "sigma2"),
    "ism": PaperChoice(7.5, "signal"),
    "sdi": PaperChoice(7.5, "signal"),
    "hifa": PaperChoice(100.0, "sigma2"),
}


class Critic(Protocol):
    """VSD's model of the renders themselves: the prior with a LoRA, or a closed form in tests."""

    def predict_noise(
        self, x_t: Tensor, t: Tensor, text: TextEmbedding, camera: Cameras | None
    ) -> Tensor:
        """The noise it sees in renders noised to `x_t`; outside the autograd graph."""
        ...

    def update(
        self,
        x: Tensor,
        text: TextEmbedding,
        camera: Cameras | None,
        generator: torch.Generator | None,
    ) -> float:
        """One step of learning from renders x, with timesteps and noise of its own; the loss.

        The trainer calls it once a step, after the scene's own step (Wang 2023, alg. 1).
        """
        ...


@dataclass(frozen=True)
class Distillation:
    """What a loss needs beside x, t and noise: one batch of B views, and the options.

    prior, text: the model, and the B rows of its prompt.
    uncond: the B rows of the empty prompt; needed unless the scale is 1 and the loss has no e_0.
    negative: B rows of a negative prompt, if there is one.
    camera: the B cameras, for priors and critics that can be told.
    guidance_scale, weight: None is the published choice of each loss (`PAPER`).
    perp_neg_texts, perp_neg_weights: n embeddings of B rows and their weights `[n, B]` (Perp-Neg
        in place of plain guidance); see `common.prompts`.
    critic: VSD's model of the renders.
    sjc_variance_reduced: subtract the noise, which has mean zero, from SJC's score.
    nfsd_threshold: share of T below which NFSD takes e_0 itself for the domain correction.
    csd_progress: share in [0, 1] of CSD's guidance that has moved from e_0 to the negative prompt.
    ism_gap, ism_stride: ISM's last step and its steps of inversion, as shares of T.
    sdi_noise: how SDI finds the noise: by DDIM inversion, or as a fixed point at time t + gap.
    sdi_steps: inversion steps over the whole of T, or iterations of the fixed point.
    sdi_inversion_scale: guidance of the inversion; sdi_gap: a share of T.
    hifa_weight, hifa_steps: weight of HiFA's extra term, and the denoising steps of its estimate.
    """

    prior: Prior
    text: TextEmbedding
    uncond: TextEmbedding | None = None
    negative: TextEmbedding | None = None
    camera: Cameras | None = None
    guidance_scale: float | None = None
    weight: WeightKind | None = None
    perp_neg_texts: tuple[TextEmbedding, ...] = ()
    perp_neg_weights: Tensor | None = None
    critic: Critic | None = None
    sjc_variance_reduced: bool = True
    nfsd_threshold: float = 0.2
    csd_progress: float = 0.0
    ism_gap: float = 0.05
    ism_stride: float = 0.2
    sdi_noise: Literal["inversion", "fixed_point"] = "inversion"
    sdi_steps: int = 10
    sdi_inversion_scale: float = -7.5
    sdi_gap: float = 0.05
    hifa_weight: float = 0.01
    hifa_steps: int = 1


DistillationLoss = Callable[[Tensor, Tensor, Tensor, Distillation], Tensor]


def distillation_gradient(
    name: LossName, x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation
) -> Tensor:
    """The gradient `[B, C, h, w]` of the named loss with respect to x, detached."""
    loss: DistillationLoss
    match name:
        case "sds":
            loss = sds
        case "sjc":
            loss = sjc
        case "vsd":
            loss = vsd
        case "nfsd":
            loss = nfsd
        case "csd":
            loss = csd
        case "ism":
            loss = ism
        case "sdi":
            loss = sdi
        case "hifa":
            loss = hifa
        case _:
            assert_never(name)
    return loss(x, t, noise, ctx)


@torch.no_grad()
def sds(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> Tensor:
    """Score distillation sampling: `w(t) (e^s - e)` (DreamFusion, Poole 2022, eq. 3)."""
    x_t = ctx.prior.schedule.add_noise(x, noise, t)
    return _weight("sds", x, t, ctx) * (guided_noise(x_t, t, _scale("sds", ctx), ctx) - noise)


@torch.no_grad()
def sjc(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> Tensor:
    """Score Jacobian chaining: `-w(t) (D - x) / s`, s = sigma / alpha (Wang 2022, eq. 16).

    D = x0_hat is the denoiser at `x_t / alpha`, the noised input of a variance-exploding model.
    Without the variance reduction x is replaced by that noised input (eq. 15); the mean is the
    same. With it, and w = 1 as published, the value equals that of SDS with w = 1.
    """
    alpha, sigma = _levels(ctx.prior.schedule, t, x)
    x_t = alpha * x + sigma * noise
    denoised = (x_t - sigma * guided_noise(x_t, t, _scale("sjc", ctx), ctx)) / alpha
    origin = x if ctx.sjc_variance_reduced else x_t / alpha
    return -_weight("sjc", x, t, ctx) * (denoised - origin) * (alpha / sigma)


@torch.no_grad()
def vsd(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> Tensor:
    """Variational score distillation: `w(t) (e^s - e_phi)` (ProlificDreamer, Wang 2023, eq. 9).

    e_phi is the critic's noise for the same x_t, prompt and camera. Raises ValueError without a
    critic.
    """
    if ctx.critic is None:
        raise ValueError("critic: VSD needs a model of the renders, got None")
    x_t = ctx.prior.schedule.add_noise(x, noise, t)
    e_phi = ctx.critic.predict_noise(x_t, t, ctx.text, ctx.camera)
    return _weight("vsd", x, t, ctx) * (guided_noise(x_t, t, _scale("vsd", ctx), ctx) - e_phi)


@torch.no_grad()
def nfsd(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> Tensor:
    """Noise-free score distillation: `w(t) [s (e_y - e_0) + d]` (Katzir 2023, eq. 6).

    The domain correction d is e_0 for t < 0.2 T and e_0 - e_n above, so that no noise is left in
    it. Ours takes d = 0 above when no negative prompt is given.
    """
    x_t = ctx.prior.schedule.add_noise(x, noise, t)
    conditions = [ctx.text, _required_uncond(ctx)]
    if ctx.negative is not None:
        conditions.append(ctx.negative)
    e_y, e_0, *rest = predict(ctx.prior, x_t, t, conditions, ctx.camera)
    low = t < ctx.nfsd_threshold * len(ctx.prior.schedule)
    above = e_0 - rest[0] if rest else torch.zeros_like(e_0)
    domain = torch.where(low.reshape(-1, *(1,) * (x.ndim - 1)), e_0, above)
    return _weight("nfsd", x, t, ctx) * (_scale("nfsd", ctx) * (e_y - e_0) + domain)


@torch.no_grad()
def csd(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> Tensor:
    """Classifier score distillation: `w(t) s (e_y - (1 - p) e_0 - p e_n)` (Yu 2023).

    p = `csd_progress` goes from 0 to 1 to bring the negative prompt in; without a negative prompt
    e_n is e_0. The scale s is 1 as published: it only scales the gradient. The released code takes
    p from 0 to 1 in its first stage and from 1 to 1/2 in its second.
    Raises ValueError for a progress outside [0, 1].
    """
    p = ctx.csd_progress
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"csd_progress: expected a number in [0, 1], got {p}")
    if ctx.negative is None or p == 0.0:
        against = [(1.0, _required_uncond(ctx))]
    elif p == 1.0:
        against = [(1.0, ctx.negative)]
    else:
        against = [(1.0 - p, _required_uncond(ctx)), (p, ctx.negative)]
    x_t = ctx.prior.schedule.add_noise(x, noise, t)
    conditions = [ctx.text, *(text for _, text in against)]
    e_y, *others = predict(ctx.prior, x_t, t, conditions, ctx.camera)
    base = torch.zeros_like(e_y)
    for (share, _), e in zip(against, others, strict=True):
        base = base + share * e
    return _weight("csd", x, t, ctx) * _scale("csd", ctx) * (e_y - base)


@torch.no_grad()
def ism(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> Tensor:
    """Interval score matching: `w(t) (e^s(x_t) - e_0(x_s))` (LucidDreamer, Liang 2023).

    x_s with s = t - gap comes from x by DDIM inversion with the empty prompt, whatever the negative
    one, x_t from x_s by one more step of it; `noise` is not used. The released code has strides of
    200 of 1000 timesteps, a gap that falls from 100 to 80, and w = sigma / alpha; our gap is 50.
    Ours takes equal steps of at most the stride for all rows, so that rows of different t share
    one call of the prior.
    """
    total = len(ctx.prior.schedule)
    s = (t - round(ctx.ism_gap * total)).clamp(min=0)
    steps = max(1, math.ceil(int(s.max()) / max(1.0, ctx.ism_stride * total)))
    plain = replace(ctx, negative=None)
    x_s = ddim_invert(x, s, steps, 0.0, plain)
    e_s = guided_noise(x_s, s, 0.0, plain)
    x_t = ddim_step(x_s, e_s, _levels(ctx.prior.schedule, s, x), _levels(ctx.prior.schedule, t, x))
    return _weight("ism", x, t, ctx) * (guided_noise(x_t, t, _scale("ism", ctx), ctx) - e_s)


@torch.no_grad()
def sdi(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> Tensor:
    """Score distillation via inversion: `w(t) (e^s(x_t) - kappa)` (Lukoianov 2024, eq. 10).

    With the published w = sigma / alpha it is `x - x0_hat(x_t)`. kappa is the noise that leads from
    x to x_t:
        "inversion": by DDIM inversion at guidance -7.5, 10 steps over the whole of T and
            proportionally fewer below; `noise` is not used (sec. 5).
        "fixed_point": the solution of `kappa = e^s(alpha x + sigma kappa)` at t + gap (eq. 8),
            iterated from `noise`. Solved exactly, a step of size 1 on an image is a step of DDIM
            from t + gap to t. It converges where the prior's noise is a contraction; a network's
            rarely is, and the paper prefers the inversion.
    Ours takes the same number of steps for all rows, from the largest t of the batch.
    """
    schedule = ctx.prior.schedule
    alpha, sigma = _levels(schedule, t, x)
    scale = _scale("sdi", ctx)
    match ctx.sdi_noise:
        case "inversion":
            steps = max(1, math.ceil(ctx.sdi_steps * (int(t.max()) + 1) / len(schedule)))
            x_t = ddim_invert(x, t, steps, ctx.sdi_inversion_scale, ctx)
            kappa = (x_t - alpha * x) / sigma
        case "fixed_point":
            later = (t + round(ctx.sdi_gap * len(schedule))).clamp(max=len(schedule) - 1)
            kappa = noise
            for _ in range(ctx.sdi_steps):
                kappa = guided_noise(schedule.add_noise(x, kappa, later), later, scale, ctx)
            x_t = alpha * x + sigma * kappa
        case _:
            assert_never(ctx.sdi_noise)
    return _weight("sdi", x, t, ctx) * (guided_noise(x_t, t, scale, ctx) - kappa)


@torch.no_grad()
def hifa(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> Tensor:
    """SDS and HiFA's extra term: `w(t) [(e^s - e) + lambda (alpha / sigma)(x - x_hat)]` (Zhu 2023).

    x_hat is the prior's estimate of the clean x, by `hifa_steps` steps of DDIM from x_t. The extra
    term belongs in pixels. For pixel models that is this function (in their range [-1, 1]); for
    latent ones it is the stand-in where nothing decodes, and `hifa_residual` with
    `hifa_image_gradient` the loss itself. With one step it is SDS once more, lambda times. Goes
    with `schedules.sqrt_annealing`.
    """
    alpha, sigma = _levels(ctx.prior.schedule, t, x)
    e_hat, estimate = _hifa_estimate(x, t, noise, ctx)
    w = _weight("hifa", x, t, ctx)
    return w * ((e_hat - noise) + ctx.hifa_weight * (alpha / sigma) * (x - estimate))


@torch.no_grad()
def hifa_residual(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> tuple[Tensor, Tensor]:
    """HiFA's gradient in latents, `w(t) (alpha / sigma)(x - x_hat)`, and the estimate x_hat.

    The part of `w' (|x - x_hat|^2 + lambda |I - I_hat|^2) / 2`, w' = w alpha / sigma, that stands
    in x (Zhu 2023); `hifa_image_gradient` is the other. With one step it equals SDS. The released
    code has a constant w' (w = "signal"), lambda = 0.1 and four steps, which draw fresh noise where
    ours are deterministic; our defaults, w = sigma^2, lambda = 0.01 and one step, keep SDS as it is
    beside the term in pixels.
    """
    alpha, sigma = _levels(ctx.prior.schedule, t, x)
    _, estimate = _hifa_estimate(x, t, noise, ctx)
    return _weight("hifa", x, t, ctx) * (alpha / sigma) * (x - estimate), estimate


@torch.no_grad()
def hifa_image_gradient(image: Tensor, estimate: Tensor, t: Tensor, ctx: Distillation) -> Tensor:
    """HiFA's extra term in pixels, `lambda w(t) (alpha / sigma)(I - I_hat)`, w.r.t. the image.

    image, estimate: the render and the decoded estimate of it, `[B, H, W, 3]` in [0, 1]; t: `[B]`.
    The caller adds `(image * gradient).sum() / B` to the loss (Zhu 2023).
    """
    alpha, sigma = _levels(ctx.prior.schedule, t, image)
    w = _weight("hifa", image, t, ctx)
    return ctx.hifa_weight * w * (alpha / sigma) * (image - estimate)


def guided_noise(x_t: Tensor, t: Tensor, scale: float, ctx: Distillation) -> Tensor:
    """The guided noise e^s in `x_t`: the one way in which losses combine predictions.

    Plain guidance, or Perp-Neg if the context has its texts. Conditions whose share is zero (e_0 at
    scale 1, e_y at scale 0) are not computed. Raises ValueError if e_0 is needed but not given.
    """
    if scale == 1.0 and not ctx.perp_neg_texts:
        return predict(ctx.prior, x_t, t, [ctx.text], ctx.camera)[0]
    base = ctx.negative if ctx.negative is not None else _required_uncond(ctx)
    if scale == 0.0:
        return predict(ctx.prior, x_t, t, [base], ctx.camera)[0]
    if not ctx.perp_neg_texts:
        e_0, e_y = predict(ctx.prior, x_t, t, [base, ctx.text], ctx.camera)
        return guide(e_0, e_y, scale)
    if ctx.perp_neg_weights is None:
        raise ValueError("perp_neg_weights: expected [n, B] with perp_neg_texts, got None")
    conditions = [base, ctx.text, *ctx.perp_neg_texts]
    e_0, e_y, *negatives = predict(ctx.prior, x_t, t, conditions, ctx.camera)
    return perp_neg(e_0, e_y, torch.stack(negatives), ctx.perp_neg_weights.to(e_y), scale)


def ddim_step(
    x_t: Tensor, eps: Tensor, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]
) -> Tensor:
    """One deterministic DDIM step between two noise levels, either way (Song 2021, eq. 12).

    here, there: (alpha, sigma), broadcast to `x_t` `[B, ...]`.
    """
    (alpha, sigma), (alpha_to, sigma_to) = here, there
    return alpha_to * (x_t - sigma * eps) / alpha + sigma_to * eps


def ddim_invert(x: Tensor, t: Tensor, steps: int, scale: float, ctx: Distillation) -> Tensor:
    """x_t from a clean x by DDIM run backwards in equal steps of time (Song 2021).

    t: `[B]`, each row its own end. x is at alpha 1, sigma 0, where the prior is asked at timestep
    0. Returns `[B, ...]` at the levels of t. Raises ValueError for steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    x_t, here = x, (torch.ones_like(x[:, :1]), torch.zeros_like(x[:, :1]))
    now = torch.zeros_like(t)
    for k in range(1, steps + 1):
        eps = guided_noise(x_t, now, scale, ctx)
        now = _part_way(t, k, steps)
        there = _levels(ctx.prior.schedule, now, x)
        x_t, here = ddim_step(x_t, eps, here, there), there
    return x_t


def ddim_denoise(
    x_t: Tensor, t: Tensor, steps: int, scale: float, ctx: Distillation, first: Tensor | None = None
) -> Tensor:
    """The clean x that DDIM reaches from `x_t` in equal steps of time; one step is x0_hat.

    t: `[B]`; first: the guided noise at (x_t, t), if it is known already.
    Raises ValueError for steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    clean = (torch.ones_like(x_t[:, :1]), torch.zeros_like(x_t[:, :1]))
    now, here = t, _levels(ctx.prior.schedule, t, x_t)
    for k in range(steps - 1, -1, -1):
        eps = first if first is not None else guided_noise(x_t, now, scale, ctx)
        first = None
        now = _part_way(t, k, steps)
        there = _levels(ctx.prior.schedule, now, x_t) if k else clean
        x_t, here = ddim_step(x_t, eps, here, there), there
    return x_t


def clip_gradient(
    gradient: Tensor, limit: float | None, by: Literal["value", "norm"] = "norm"
) -> Tensor:
    """A distillation gradient `[B, ...]` held under a limit; None leaves it as it is.

    "norm": a sample whose root mean square over its elements exceeds the limit is scaled down to
    it, direction kept; the limit does not depend on the resolution. "value": every element is
    clamped to [-limit, limit]. A limit that changes over the run is
    `schedules.step_schedule(points, step)`. Raises ValueError for limit <= 0.
    """
    if limit is None:
        return gradient
    if limit <= 0:
        raise ValueError(f"limit: expected a positive number, got {limit}")
    match by:
        case "value":
            return gradient.clamp(-limit, limit)
        case "norm":
            dims = tuple(range(1, gradient.ndim))
            rms = gradient.square().mean(dim=dims, keepdim=True).sqrt()
            return gradient * (limit / rms.clamp(min=limit))
        case _:
            assert_never(by)


class ExactGaussianCritic:
    """VSD's critic in closed form: the renders are taken as Gaussian, each element on its own.

    `update` sets mean and variance to those of the batch; there is nothing to train. For proofs and
    for worlds of many particles, where the batch is the whole of the population.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.mean: Tensor | None = None
        self.variance: Tensor | None = None

    @torch.no_grad()
    def predict_noise(
        self, x_t: Tensor, t: Tensor, text: TextEmbedding, camera: Cameras | None
    ) -> Tensor:
        """The exact noise of the fitted Gaussian. Raises ValueError before the first `update`."""
        if self.mean is None or self.variance is None:
            raise ValueError("critic: expected update(x) before predict_noise, got none")
        alpha, sigma = _levels(self.schedule, t, x_t)
        return gaussian_denoise(x_t, alpha, sigma, self.mean, self.variance)

    @torch.no_grad()
    def update(
        self,
        x: Tensor,
        text: TextEmbedding | None = None,
        camera: Cameras | None = None,
        generator: torch.Generator | None = None,
    ) -> float:
        """Fit to the renders x `[B, ...]`; always returns 0, the fit being exact."""
        self.mean = x.mean(dim=0, keepdim=True)
        self.variance = x.var(dim=0, unbiased=False, keepdim=True)
        return 0.0


def _hifa_estimate(x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation) -> tuple[Tensor, Tensor]:
    """The guided noise at x_t, and the clean x that `hifa_steps` steps of DDIM make of it."""
    alpha, sigma = _levels(ctx.prior.schedule, t, x)
    scale = _scale("hifa", ctx)
    x_t = alpha * x + sigma * noise
    e_hat = guided_noise(x_t, t, scale, ctx)
    return e_hat, ddim_denoise(x_t, t, ctx.hifa_steps, scale, ctx, first=e_hat)


def _scale(name: LossName, ctx: Distillation) -> float:
    return PAPER[name].guidance_scale if ctx.guidance_scale is None else ctx.guidance_scale


def _weight(name: LossName, x: Tensor, t: Tensor, ctx: Distillation) -> Tensor:
    alpha, sigma = _levels(ctx.prior.schedule, t, x)
    return weight(ctx.weight or PAPER[name].weight, alpha, sigma)


def _levels(schedule: NoiseSchedule, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t `[B, 1, ...]` in the dtype of x."""
    alpha, sigma = schedule.at(t, x.ndim)
    return alpha.to(x), sigma.to(x)


def _part_way(t: Tensor, k: int, steps: int) -> Tensor:
    """The timestep nearest to t k / steps."""
    return (t * k + steps // 2) // steps


def _required_uncond(ctx: Distillation) -> TextEmbedding:
    if ctx.uncond is None:
        raise ValueError("uncond: this loss at this scale needs the empty prompt's rows, got None")
    return ctx.uncond

"""Priors whose answer is known: a Gaussian and a finite set of images for every text.

They are the instruments on which guidance and the distillation losses are proved, and the pure
functions below are what any exact denoiser is made of.

Symbols: `x_t = alpha x + sigma eps`, m and v the mean and variance of x, x0_hat = E[x | x_t].
alpha and sigma are shaped `[B, 1, ...]`, as `NoiseSchedule.at` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maquette.common.embedded.exact import posterior_mean
from maquette.common.errors import UserError, nearest
from maquette.common.priors.base import Condition, Prior, TextEmbedding
from maquette.common.priors.noise import NoiseSchedule
from maquette.common.scene.cameras import Cameras


def gaussian_denoise(
    x_t: Tensor, alpha: Tensor, sigma: Tensor, mean: Tensor, var: Tensor | float
) -> Tensor:
    """The ideal noise prediction for x ~ N(mean, var), -sigma times the score of x_t.

    It is `sigma (x_t - alpha m) / (alpha^2 v + sigma^2)`; all arguments broadcast to `x_t`
    `[B, ...]`.
    """
    return sigma * (x_t - alpha * mean) / (alpha**2 * var + sigma**2)


def noise_from_mean(x_t: Tensor, alpha: Tensor, sigma: Tensor, x0_hat: Tensor) -> Tensor:
    """The noise prediction that means the denoised `x0_hat`: `(x_t - alpha x0_hat) / sigma`."""
    return (x_t - alpha * x0_hat) / sigma


class _ClosedFormPrior(Prior):
    """What the closed-form priors share: pixels as x, and a table of texts."""

    space = "pixel"
    takes_camera = False

    def __init__(self, texts: Sequence[str], schedule: NoiseSchedule, resolution: int) -> None:
        if "" not in texts:
            raise ValueError("texts: expected an entry for '', the unconditional text, got none")
        self.schedule = schedule
        self.resolution = resolution
        self._row = {text: i for i, text in enumerate(texts)}

    def encode_image(self, image: Tensor) -> Tensor:
        """From `[B, H, W, C]` in [0, 1] to `[B, C, H, W]` in [-1, 1], at any size."""
        if image.ndim != 4:
            raise ValueError(f"image: expected [B, H, W, C], got {tuple(image.shape)}")
        return image.permute(0, 3, 1, 2) * 2.0 - 1.0

    def _rows(self, prompts: Sequence[str]) -> list[int]:
        for prompt in prompts:
            if prompt not in self._row:
                hint = ", ".join(f"'{t}'" for t in nearest(prompt, self._row)) or "none is near"
                raise UserError(f"this prior knows no text '{prompt}'; the nearest are: {hint}")
        return [self._row[prompt] for prompt in prompts]


class GaussianPrior(_ClosedFormPrior):
    """Images of a text follow N(mean, variance), each element on its own.

    texts: text -> (mean `[C, h, w]` or any shape of x, variance as a number or broadcastable
    tensor); the entry '' is the unconditional distribution. Raises ValueError without one.
    """

    def __init__(
        self,
        texts: Mapping[str, tuple[Tensor, Tensor | float]],
        schedule: NoiseSchedule,
        resolution: int = 64,
    ) -> None:
        super().__init__(list(texts), schedule, resolution)
        self._mean = torch.stack([mean for mean, _ in texts.values()])
        self._variance = torch.stack(
            [torch.as_tensor(v, dtype=m.dtype).expand(m.shape) for m, v in texts.values()]
        )

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """The texts' means and variances; UserError for a text without an entry."""
        rows = self._rows(prompts)
        return TextEmbedding(
            tuple(prompts), {"mean": self._mean[rows], "variance": self._variance[rows]}
        )

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The exact noise prediction (`gaussian_denoise`); the camera makes no difference."""
        alpha, sigma = self.schedule.at(t, x_t.ndim)
        mean, var = (condition.text.tensors[k].to(x_t) for k in ("mean", "variance"))
        return gaussian_denoise(x_t, alpha.to(x_t), sigma.to(x_t), mean, var)


class FiniteSetPrior(_ClosedFormPrior):
    """A text is one of finitely many images, all equally likely.

    texts: text -> its images `[K, C, h, w]` (or any shape of x), K free for each text. Without an
    entry '' the unconditional distribution is the union of all of them.
    """

    def __init__(
        self, texts: Mapping[str, Tensor], schedule: NoiseSchedule, resolution: int = 64
    ) -> None:
        sets = dict(texts)
        sets.setdefault("", torch.cat(list(texts.values())))
        super().__init__(list(sets), schedule, resolution)
        most = max(len(images) for images in sets.values())
        # Shorter sets are filled up with images of probability 0, so that all have one shape.
        self._candidates = torch.stack(
            [torch.cat([c, c[:1].expand(most - len(c), *c.shape[1:])]) for c in sets.values()]
        )
        # Finite, so that blends of texts with a share of 0 stay numbers.
        self._log_weights = torch.full((len(sets), most), -1e9)
        for row, images in enumerate(sets.values()):
            self._log_weights[row, : len(images)] = 0.0

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """The texts' images; UserError for a text without an entry."""
        rows = self._rows(prompts)
        return TextEmbedding(
            tuple(prompts),
            {"candidates": self._candidates[rows], "log_weights": self._log_weights[rows]},
        )

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The exact noise prediction (`posterior_mean`); the camera makes no difference."""
        alpha, sigma = (level.to(x_t) for level in self.schedule.at(t, x_t.ndim))
        candidates, log_weights = (
            condition.text.tensors[k].to(x_t) for k in ("candidates", "log_weights")
        )
        x0_hat = posterior_mean(x_t, alpha, sigma, candidates, log_weights)
        return noise_from_mean(x_t, alpha, sigma, x0_hat)


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
        self, x_t: Tensor, t: Tensor, condition: Condition, cameras: Cameras | None
    ) -> Tensor:
        """The exact noise of the fitted Gaussian. Raises ValueError before the first `update`."""
        if self.mean is None or self.variance is None:
            raise ValueError("critic: expected update(x) before predict_noise, got none")
        alpha, sigma = (level.to(x_t) for level in self.schedule.at(t, x_t.ndim))
        return gaussian_denoise(x_t, alpha, sigma, self.mean, self.variance)

    @torch.no_grad()
    def update(
        self,
        x: Tensor,
        condition: Condition | None = None,
        cameras: Cameras | None = None,
        generator: torch.Generator | None = None,
    ) -> float:
        """Fit to the renders x `[B, ...]`; always returns 0, the fit being exact."""
        self.mean = x.mean(dim=0, keepdim=True)
        self.variance = x.var(dim=0, unbiased=False, keepdim=True)
        return 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Nothing that a checkpoint would need."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to put back."""

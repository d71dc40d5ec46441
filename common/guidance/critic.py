"""VSD's critic: the prior's own network with a LoRA that learns to see the renders as they are.

The LoRA lies inside the prior's denoiser and is switched on only while the critic speaks, so that
one copy of the weights serves both (Wang 2023, sec. 3.2, trains a LoRA of the prior as well). The
camera enters as a linear map of `camera_features`, added to the time embedding of every family.
LoRA and map start at zero: the first critic is the prior itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from .. import ranks
from ..device import Number, send, shown
from ..errors import UserError
from ..losses import CriticConfig
from ..priors.base import Condition
from ..priors.camera_features import FEATURES, camera_features
from ..priors.memory import resident
from ..priors.pretrained import PretrainedPrior
from ..runs import checkpoints
from ..scene.cameras import Cameras

ADAPTER = "critic"
# The attention projections of every family's denoiser; the added ones are those of the text.
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_PROJECTIONS = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class Critic(Protocol):
    """VSD's model of the renders themselves: the prior with a LoRA, or a closed form in tests."""

    def predict_noise(
        self, x_t: Tensor, t: Tensor, condition: Condition, cameras: Cameras | None
    ) -> Tensor:
        """The noise it sees in renders noised to `x_t`; outside the autograd graph.

        condition: what the prior inside is told. cameras: what the critic itself is told.
        """
        ...

    def update(
        self,
        x: Tensor,
        condition: Condition,
        cameras: Cameras | None,
        generator: torch.Generator | None,
    ) -> Number:
        """One step of learning from renders x, with timesteps and noise of its own; the loss.

        Called once a step, after the scene's own step (Wang 2023, alg. 1).
        """
        ...

    def tensors(self) -> dict[str, Tensor]: ...
    def load(self, tensors: Mapping[str, Tensor]) -> None: ...


class LoraCritic:
    """A `Critic`: the prior with a LoRA, told the camera, trained in step.

    Raises UserError without peft, or for a denoiser that is streamed layer by layer, through which
    no gradient can go back.
    """

    def __init__(self, prior: PretrainedPrior, config: CriticConfig) -> None:
        if prior.options.offload == "group":
            raise UserError(
                "VSD trains through the denoiser, which cannot be streamed layer by layer"
                " (offload group); choose offload none or model, or another loss"
            )
        self.prior, self.config = prior, config
        self._layers = add_lora(prior.denoiser, config.rank, config.layers)
        embedding, width = time_embedding(prior.denoiser)
        self._camera = nn.Linear(FEATURES, width, bias=False).to(prior.device)
        nn.init.zeros_(self._camera.weight)
        embedding.register_forward_hook(self._add_camera)
        self._features: Tensor | None = None
        self._parameters = {
            f"lora/{name}": p for name, p in prior.denoiser.named_parameters() if p.requires_grad
        } | {"camera": self._camera.weight}
        self._optimizer = torch.optim.Adam(self._parameters.values(), lr=config.learning_rate)
        if config.checkpoint:
            prior.denoiser.enable_gradient_checkpointing()
        self._switch(False)

    def predict_noise(
        self, x_t: Tensor, t: Tensor, condition: Condition, cameras: Cameras | None
    ) -> Tensor:
        """The noise it sees in renders noised to `x_t` `[B, ...]`; outside the autograd graph."""
        with torch.no_grad(), self._speaking(cameras):
            return self.prior.denoise(x_t.detach(), t, condition)

    def update(
        self,
        x: Tensor,
        condition: Condition,
        cameras: Cameras | None,
        generator: torch.Generator | None,
    ) -> Number:
        """`updates` steps of Adam down `|e_phi(x_t) - e|^2` (Wang 2023, eq. 8); the mean loss.

        t is uniform over all timesteps, the same for views that the prior denoises jointly; a share
        of the steps doesn't tell the camera, neither the critic nor the prior inside. The squares
        are summed, not averaged: Adam is blind to the scale, and half precision is not.
        """
        x, schedule = x.detach(), self.prior.schedule
        total: Number = 0.0
        for _ in range(self.config.updates):
            groups = x.shape[0] // self.prior.group
            t = ranks.drawn(_integers, groups, len(schedule), generator=generator)
            t = send(t, x.device)
            t = t.repeat_interleave(self.prior.group)
            noise = ranks.drawn(torch.randn, *x.shape, generator=generator).to(x, non_blocking=True)
            told = float(torch.rand(1, generator=generator)) >= self.config.camera_dropout
            inside = condition if told else replace(condition, cameras=None)
            with torch.enable_grad(), self._speaking(cameras if told else None):
                x_t = schedule.add_noise(x, noise, t)
                e_phi = self.prior.denoise(x_t, t, inside)
                loss = (e_phi - noise).square().sum()
                loss.backward()
                ranks.average_gradients(self._parameters.values())
                self._follow_parameters()
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
            total = total + shown(loss) / x.numel()
        return total / self.config.updates

    def tensors(self) -> dict[str, Tensor]:
        """LoRA, camera map and Adam's moments."""
        names = {id(p): name for name, p in self._parameters.items()}
        return dict(self._parameters) | checkpoints.optimizer_state(self._optimizer, names)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors[name])
        names = {id(p): name for name, p in self._parameters.items()}
        checkpoints.load_optimizer_state(self._optimizer, names, tensors)

    @contextmanager
    def _speaking(self, camera: Cameras | None) -> Iterator[None]:
        """The denoiser on the device, computing as the prior does, with the LoRA on and told the
        camera, within the block."""
        prior, device = self.prior, self.prior.device
        place = resident(prior.denoiser, device, prior.options.offload)
        with prior.memory_advice(), place, prior.computing():
            self._features = None if camera is None else camera_features(camera.to(device))
            self._switch(True)
            try:
                yield
            finally:
                self._switch(False)
                self._features = None

    def _switch(self, on: bool) -> None:
        for layer in self._layers:
            layer.enable_adapters(on)

    def _add_camera(self, module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
        """Forward hook of the time embedding `[B, width]`."""
        return None if self._features is None else output + self._camera(self._features).to(output)

    def _follow_parameters(self) -> None:
        """Bring Adam's moments to where offloading has moved their parameters."""
        for parameter, state in self._optimizer.state.items():
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    state[key] = state[key].to(parameter.device)


def _integers(count: int, limit: int, generator: torch.Generator | None) -> Tensor:
    """`count` whole numbers in [0, limit)."""
    return torch.randint(limit, (count,), generator=generator)


def add_lora(
    denoiser: nn.Module, rank: int, where: Literal["attention", "all"] = "attention"
) -> list[Any]:
    """Put a LoRA of `rank` on layers of a denoiser; those layers.

    where: `attention` is the projections of its attention, as published; `all` is every linear
    layer and convolution but the embeddings. It starts as no change at all, its first factor drawn
    from torch's generator. Its parameters are float32 and the only ones that require a gradient.
    Raises UserError without peft.
    """
    from .choose import require_peft

    require_peft()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    targets = [*PROJECTIONS, *TEXT_PROJECTIONS] if where == "attention" else _inner(denoiser)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
    inject_adapter_in_model(config, denoiser, adapter_name=ADAPTER)
    layers = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return layers


def _inner(denoiser: nn.Module) -> list[str]:
    """The names of all linear layers and convolutions but the embeddings'."""
    return [
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and "embed" not in name
    ]


def time_embedding(denoiser: nn.Module) -> tuple[nn.Module, int]:
    """The module whose output `[B, width]` every block of a denoiser reads, and the width.

    `time_embedding` of U-Nets, `time_text_embed` of SD 3 and FLUX. Raises UserError for others.
    """
    for name in ("time_embedding", "time_text_embed"):
        module: Any = getattr(denoiser, name, None)
        if module is not None:
            embedder = getattr(module, "timestep_embedder", module)
            return module, embedder.linear_2.out_features
    raise UserError(
        f"VSD has no place to tell a {type(denoiser).__name__} the camera; choose another loss"
    )

"""MVDream on small random weights: its U-Net's names, its cameras, and who sees whom."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maquette.common.config.priors import PriorConfig
from maquette.common.errors import UserError
from maquette.common.priors.base import Condition
from maquette.common.priors.joint_views import JointAttention
from maquette.common.priors.loading import load_prior
from maquette.common.priors.mvdream import (
    MVDreamPrior,
    camera_matrices,
    stock_weights,
    unet_config,
)
from maquette.common.scene.cameras import Cameras
from maquette.common.scene.views import around
from tests.reference.tiny_models import MVDREAM_UNET, build_mvdream, mvdream_weights


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> MVDreamPrior:
    folder = build_mvdream(tmp_path_factory.mktemp("models") / "mvdream")
    loaded = load_prior(PriorConfig(name=str(folder)))
    assert isinstance(loaded, MVDreamPrior)
    return loaded


def groups(*azimuths: float) -> Cameras:
    azimuth = torch.tensor(azimuths)
    one = torch.ones_like(azimuth)
    first = Cameras(azimuth, 0.3 * one, 2.5 * one, math.radians(40.0) * one)
    return around(first, 4)


def asked(prior: MVDreamPrior, x_t: Tensor, cameras: Cameras, t: int = 500) -> Tensor:
    text = prior.encode_text(["a red chair"]).select([0] * len(x_t))
    return prior.predict_noise(x_t, torch.full((len(x_t),), t), Condition(text, cameras))


def test_every_weight_finds_its_place() -> None:
    from diffusers import UNet2DConditionModel

    own, config = mvdream_weights(), unet_config(MVDREAM_UNET)
    unet = UNet2DConditionModel(**config)
    found = stock_weights(own, config)
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in unet.state_dict().items()
    }
    assert len(found) == len(own)
    torch.testing.assert_close(
        found["class_embedding.linear_1.weight"], own["camera_embed.0.weight"]
    )
    torch.testing.assert_close(found["class_embedding.linear_2.bias"], own["camera_embed.2.bias"])


def test_views_of_a_group_see_each_other_and_no_others(prior: MVDreamPrior) -> None:
    assert (prior.group, prior.takes_camera) == (4, True)
    cameras, x_t = groups(0.2, 1.0), torch.randn(8, 4, 8, 8)
    before = asked(prior, x_t, cameras)
    changed = x_t.clone()
    changed[2] += torch.randn(4, 8, 8)
    moved = (asked(prior, changed, cameras) - before).abs().flatten(1).amax(dim=1)
    assert (moved[:4] > 1e-4).all()  # all of its own group, the others of it too
    assert (moved[4:] < 1e-6).all()
    alone = asked(prior, x_t[4:], cameras[4:8])
    torch.testing.assert_close(alone, before[4:], atol=1e-5, rtol=0)


def test_which_of_a_group_comes_first_does_not_matter(prior: MVDreamPrior) -> None:
    cameras, x_t = groups(0.2), torch.randn(4, 4, 8, 8)
    order = torch.tensor([2, 0, 3, 1])
    found = asked(prior, x_t[order], cameras[order])
    torch.testing.assert_close(found, asked(prior, x_t, cameras)[order], atol=1e-5, rtol=0)


def test_joint_attention_by_hand() -> None:
    """One softmax over all tokens of a run, computed in float64 from the layer's own weights."""
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    layer = Attention(query_dim=12, heads=3, dim_head=4).double()
    tokens = torch.randn(8, 5, 12, dtype=torch.float64)
    layer.set_processor(JointAttention(4))  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        found = layer(tokens)
        for run in range(2):
            run_tokens = tokens[4 * run : 4 * run + 4].reshape(20, 12)
            q, k, v = (run_tokens @ m.weight.T for m in (layer.to_q, layer.to_k, layer.to_v))
            heads = []
            for head in range(3):
                part = slice(4 * head, 4 * head + 4)
                scores = q[:, part] @ k[:, part].T / 2.0
                heads.append(scores.softmax(dim=-1) @ v[:, part])
            out = layer.to_out[0]
            wanted = torch.cat(heads, dim=-1) @ out.weight.T + out.bias
            torch.testing.assert_close(found[4 * run : 4 * run + 4].reshape(20, 12), wanted)


def test_cameras_are_told_as_matrices_of_unit_distance() -> None:
    cameras = groups(0.0)
    matrices = camera_matrices(cameras).reshape(4, 4, 4)
    torch.testing.assert_close(matrices[:, :3, 3].norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(matrices[:, :3, :3], cameras.c2w[:, :3, :3])
    torch.testing.assert_close(cameras.c2w[:, :3, 3].norm(dim=-1), torch.full((4,), 2.5))
    # By hand: from azimuth 0, 17 degrees up; right is +Y, up leans back, backward to the camera.
    c, s = math.cos(0.3), math.sin(0.3)
    wanted = torch.tensor([[0, -s, c, c], [1, 0, 0, 0], [0, c, s, s], [0, 0, 0, 1.0]])
    torch.testing.assert_close(matrices[0], wanted, atol=1e-6, rtol=0)
    assert not cameras.c2w[0, :3, 3].allclose(matrices[0, :3, 3])


def test_the_camera_counts(prior: MVDreamPrior) -> None:
    x_t = torch.randn(4, 4, 8, 8)
    turned = asked(prior, x_t, groups(1.3)) - asked(prior, x_t, groups(0.2))
    assert float(turned.abs().max()) > 1e-4


def test_what_it_can_t_do_is_told(prior: MVDreamPrior) -> None:
    text = prior.encode_text(["a red chair"])
    with pytest.raises(ValueError, match="runs of 4"):
        asked(prior, torch.randn(3, 4, 8, 8), groups(0.2)[:3])
    blind, t = Condition(text.select([0] * 4)), torch.full((4,), 5)
    with pytest.raises(ValueError, match="cameras"):
        prior.predict_noise(torch.randn(4, 4, 8, 8), t, blind)
    with pytest.raises(UserError, match="ImageDream"):
        unet_config({**MVDREAM_UNET, "ip_dim": 16})
    with pytest.raises(UserError, match="channel_mult"):
        unet_config({k: v for k, v in MVDREAM_UNET.items() if k != "channel_mult"})

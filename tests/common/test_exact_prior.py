"""The exact prior: its denoiser in closed form, its encoder, and the descent it leads to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maquette.common.embedded import exact
from maquette.common.embedded.exact import BLOCK, ExactPrior, linear_encoder
from maquette.common.errors import UserError
from maquette.common.guidance.ask import Ask
from maquette.common.guidance.conditions import Rows
from maquette.common.light.skies import Skies, studio_skies
from maquette.common.losses import SDS
from maquette.common.priors.base import Condition
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.toybox.objects import ToyObject, build
from maquette.common.toybox.studio import photograph

PROMPT = "a red mushroom"
TIMESTEPS = [20, 300, 700, 980]


def pixel(instances: int = 1) -> ExactPrior:
    return ExactPrior("pixel", instances)


def denoised(prior: ExactPrior, x_t: Tensor, t: Tensor, prompts: list[str], cameras: Cameras):
    """What the predicted noise means: `(x_t - sigma eps) / alpha`, in float64."""
    eps = prior.predict_noise(x_t, t, Condition(prior.encode_text(prompts), cameras))
    alpha, sigma = (level.double() for level in prior.schedule.at(t, x_t.ndim))
    return (x_t.double() - sigma * eps.double()) / alpha


def truth(prompt: str, cameras: Cameras, resolution: int, instance: int = 0) -> Tensor:
    return photograph(build(prompt, instance), cameras, resolution)


@pytest.mark.parametrize("t", TIMESTEPS)
def test_one_instance_is_denoised_to_the_camera_s_true_view(t: int) -> None:
    prior, cameras = pixel(), orbit(2)
    steps = torch.full((2,), t)
    x_t = torch.randn(2, 3, 64, 64)
    wanted = 2 * truth(PROMPT, cameras, 64).permute(0, 3, 1, 2).double() - 1
    found = denoised(prior, x_t, steps, [PROMPT] * 2, cameras)
    # float32 noise over a small alpha: the error grows as 1 / alpha.
    alpha = float(prior.schedule.alpha[t])
    torch.testing.assert_close(found, wanted, atol=2e-6 / alpha, rtol=0)
    assert float((wanted[0] - wanted[1]).abs().max()) > 0.5  # two different views


def test_two_instances_give_their_posterior_mean() -> None:
    prior, camera = pixel(instances=2), orbit(1)
    views = torch.stack([truth(PROMPT, camera, 64, i)[0] for i in range(2)])
    views = (2 * views.permute(0, 3, 1, 2) - 1).double()  # (2, 3, 64, 64)
    for t in TIMESTEPS:
        alpha, sigma = float(prior.schedule.alpha[t]), float(prior.schedule.sigma[t])
        # Half way between the two, and a little towards the first.
        x_t = (alpha * (0.5 * views[:1] + 0.5 * views[1:])).float()
        x_t += (
            0.2
            * sigma**2
            / alpha
            / float((views[0] - views[1]).norm()) ** 2
            * (views[:1] - views[1:]).float()
        )
        squared = ((x_t.double() - alpha * views) ** 2).sum(dim=(1, 2, 3))
        share = torch.softmax(-squared / (2 * sigma**2), dim=0)
        assert 0.5 < float(share[0]) < 0.6
        wanted = (share[:, None, None, None] * views).sum(dim=0, keepdim=True)
        found = denoised(prior, x_t, torch.tensor([t]), [PROMPT], camera)
        torch.testing.assert_close(found, wanted, atol=1e-5 / alpha, rtol=0)


def test_near_the_end_the_nearer_instance_wins() -> None:
    prior, camera = pixel(instances=2), orbit(1)
    steps = torch.tensor([20])
    for instance in range(2):
        view = 2 * truth(PROMPT, camera, 64, instance).permute(0, 3, 1, 2) - 1
        x_t = prior.schedule.add_noise(view, torch.randn_like(view), steps)
        found = denoised(prior, x_t, steps, [PROMPT], camera)
        torch.testing.assert_close(found, view.double(), atol=1e-4, rtol=0)


def test_every_row_has_its_own_text_camera_and_time() -> None:
    prior, cameras = pixel(), orbit(3)
    prompts = [PROMPT, "a blue car", PROMPT]
    steps = torch.tensor([100, 500, 900])
    x_t = torch.randn(3, 3, 64, 64)
    found = denoised(prior, x_t, steps, prompts, cameras)
    for row, prompt in enumerate(prompts):
        here = slice(row, row + 1)
        alone = denoised(prior, x_t[here], steps[here], [prompt], cameras[here])
        torch.testing.assert_close(found[here], alone)
        view = 2 * truth(prompt, cameras[here], 64).permute(0, 3, 1, 2) - 1
        torch.testing.assert_close(found[here], view.double(), atol=1e-3, rtol=0)


def test_the_empty_prompt_stands_for_several_toys() -> None:
    (views,) = pixel().true_views("", orbit(1))
    assert views.shape[1:] == (3, 64, 64)
    assert views.shape[0] > 4
    distance = torch.cdist(views.flatten(1), views.flatten(1))
    assert float((distance + 1e9 * torch.eye(len(views))).min()) > 5.0


def test_bad_use_is_told() -> None:
    prior = pixel()
    with pytest.raises(UserError, match="mushrom"):
        prior.encode_text([PROMPT, "a red mushrom"])
    text = prior.encode_text([PROMPT])
    with pytest.raises(ValueError, match="camera"):
        prior.predict_noise(torch.zeros(1, 3, 64, 64), torch.tensor([5]), Condition(text))


def test_pixels_are_scaled_to_minus_one_and_one() -> None:
    image = torch.rand(2, 5, 5, 3)
    x = pixel().encode_image(image)
    assert x.shape == (2, 3, 5, 5)
    torch.testing.assert_close(x[1, 2, 3, 4], 2 * image[1, 3, 4, 2] - 1)


def test_the_encoder_s_rows_are_orthogonal_and_of_equal_length() -> None:
    rows = linear_encoder().double().flatten(1)
    gram = rows @ rows.T
    length = float(gram[0, 0])
    torch.testing.assert_close(gram, length * torch.eye(4).double(), atol=1e-9, rtol=1e-6)
    assert length == pytest.approx(1 / BLOCK**2)


def test_latents_of_known_blocks() -> None:
    prior = ExactPrior("latent")
    flat = torch.tensor([0.2, 0.5, 0.9]).expand(1, 16, 8, 3)
    latents = prior.encode_image(flat)
    assert latents.shape == (1, 4, 2, 1)
    torch.testing.assert_close(
        latents[0, :, 0, 0], torch.tensor([-0.6, 0.0, 0.8, 0.0]), atol=1e-6, rtol=1e-5
    )
    # Brighter to the lower right: the fourth channel is positive, the other way negative.
    ramp = torch.arange(8.0) / 16
    image = (ramp[:, None] + ramp[None, :])[None, :, :, None].expand(1, 8, 8, 3)
    assert float(prior.encode_image(image)[0, 3]) > 0.05
    assert float(prior.encode_image(1 - image)[0, 3]) < -0.05


@pytest.mark.parametrize("space", ["pixel", "latent"])
def test_the_gradient_that_reaches_the_image_is_the_adjoint(space) -> None:
    """<J u, v> = <u, J^T v> for the affine encoder, J u = E(u) - E(0)."""
    prior = ExactPrior(space)
    prior.encoder = prior.encoder.double()
    shape = (1, 64, 64, 3)
    image = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    encoded = prior.encode_image(image)
    direction = torch.randn(shape, dtype=torch.float64)
    cotangent = torch.randn_like(encoded)
    (adjoint,) = torch.autograd.grad(encoded, image, cotangent)
    zero = torch.zeros(shape, dtype=torch.float64)
    forward = prior.encode_image(direction) - prior.encode_image(zero)
    left = float((forward * cotangent).sum())
    assert left == pytest.approx(float((direction * adjoint).sum()), rel=1e-10)


@pytest.mark.parametrize("space", ["pixel", "latent"])
def test_descent_ends_at_the_true_view(space) -> None:
    """The expected SDS gradient is a weighted L2 to the true view: so gradient descent finds it."""
    prior, camera = ExactPrior(space), orbit(1)
    wanted, empty = (Condition(prior.encode_text([text]), camera) for text in (PROMPT, ""))
    # This weight makes the gradient x - x0hat.
    ask = Ask(prior, Rows(wanted, empty), scale=1.0, kind="signal")
    view = truth(PROMPT, camera, prior.resolution)
    image = torch.full_like(view, 0.3)
    generator = torch.Generator().manual_seed(0)
    # E E^T = 1/64 of the identity for the latent encoder, and 2^2 of the scaling to [-1, 1].
    rate = 0.5 / 4 * (1 if space == "pixel" else BLOCK**2)
    for _ in range(25):
        image.requires_grad_(True)
        x = prior.encode_image(image)
        t = torch.randint(20, 700, (1,), generator=generator)
        gradient = SDS().gradient(x.detach(), image, t, torch.randn(x.shape), ask).x
        (slope,) = torch.autograd.grad(x, image, gradient)
        image = (image - rate * slope).detach()
    goal, found = prior.encode_image(view), prior.encode_image(image)
    assert float((found - goal).abs().max()) < 0.01
    if space == "pixel":
        torch.testing.assert_close(image, view, atol=0.01, rtol=0)
    start = prior.encode_image(torch.full_like(view, 0.3))
    assert float((start - goal).abs().max()) > 0.5


def test_a_view_is_photographed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, cameras, taken = pixel(), orbit(40), []

    def counted(
        toy: ToyObject, camera: Cameras, resolution: int, skies: Skies | None = None
    ) -> Tensor:
        taken.extend(camera.azimuth.tolist())
        return photograph(toy, camera, resolution, skies=skies)

    monkeypatch.setattr(exact, "photograph", counted)

    def view(caption: str, index: int = 0) -> Tensor:
        (found,) = prior.true_views(caption, cameras[index : index + 1])
        return found

    first, other = (view("a red chair", index) for index in range(2))
    assert not torch.equal(first, other)
    assert torch.equal(view("a red chair"), first)
    assert not torch.equal(view("a blue chair"), first)
    assert len(taken) == 3
    together = prior.true_views("a red chair", cameras[torch.tensor([1, 2, 0, 2])])
    assert len(taken) == 4
    assert torch.equal(together[0], other)
    assert torch.equal(together[2], first)
    assert torch.equal(together[1], together[3])
    assert torch.equal(
        together[1], exact.ExactPrior("pixel").true_views("a red chair", cameras[2:3])[0]
    )
    for index in range(len(cameras)):  # more than are kept: the first is taken anew, the same
        view("a red chair", index)
    assert torch.equal(view("a red chair"), first)
    assert taken.count(taken[0]) == 3
    for _ in range(2):  # a sky is another light, and another picture
        (lit,) = prior.true_views("a red chair", cameras[:1], studio_skies(1))
        assert not torch.equal(lit, first)
    assert taken.count(taken[0]) == 4

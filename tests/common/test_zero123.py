"""Zero-1-to-3 on small random weights in the public layout, and the signs of its pose."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maquette.common.config.priors import PriorConfig
from maquette.common.errors import UserError
from maquette.common.guidance.ask import Ask
from maquette.common.guidance.conditions import ImageConditioner
from maquette.common.guidance.prompts import ViewPrompts
from maquette.common.priors.base import Condition, Reference
from maquette.common.priors.loading import load_prior
from maquette.common.priors.zero123 import Zero123Prior, clip_pixels, relative_pose
from maquette.common.scene.cameras import Cameras
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import WHITE, photograph
from tests.reference.tiny_models import RESOLUTION, build_zero123


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zero123(tmp_path_factory.mktemp("models") / "zero123")


@pytest.fixture(scope="module")
def prior(folder: Path) -> Zero123Prior:
    loaded = load_prior(PriorConfig(name=str(folder)))
    assert isinstance(loaded, Zero123Prior)
    return loaded


def views(*directions: tuple[float, float], distance: float = 3.8, fovy: float = 20.0) -> Cameras:
    azimuth, elevation = torch.tensor(directions).T
    one = torch.ones_like(azimuth)
    return Cameras(azimuth, elevation, distance * one, math.radians(fovy) * one)


def told(prior: Zero123Prior, image: Tensor, picture: Cameras, seen: Cameras) -> Condition:
    latent, token = prior.encode_reference(image)
    rows = len(seen)
    reference = Reference(
        latent.expand(rows, -1, -1, -1),
        picture[torch.zeros(rows, dtype=torch.long)],
        seen,
        token.expand(rows, -1),
    )
    return Condition(prior.encode_text([""] * rows), None, reference)


def published_step(prior: Zero123Prior, image: Tensor, pose: list[float], x_t: Tensor, t: int):
    """The noise of one sampling step as published, for one view, in plain float32."""
    parts = prior.pipeline
    pixels = image.permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(
        pixels, (224, 224), mode="bicubic", align_corners=True, antialias=False
    )
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    with torch.no_grad():
        embedding = parts.image_encoder((small - mean) / std).image_embeds
        joined = torch.cat([embedding, torch.tensor([pose])], dim=-1)
        token = joined @ parts.projection.weight.T + parts.projection.bias
        latent = parts.vae.encode(2.0 * pixels - 1.0).latent_dist.mode()
        both = torch.cat([x_t, latent], dim=1)
        found = parts.unet(both, t, encoder_hidden_states=token[:, None]).sample
        none = torch.cat([x_t, torch.zeros_like(latent)], dim=1)
        empty = parts.unet(none, t, encoder_hidden_states=torch.zeros_like(token)[:, None]).sample
    return found, empty


@pytest.mark.parametrize("stable", [False, True])
def test_it_predicts_the_noise_of_the_published_step(
    folder: Path, prior: Zero123Prior, stable: bool
) -> None:
    if stable:
        options = PriorConfig(name=str(folder), pose="stable")
        chosen = load_prior(options)
        assert isinstance(chosen, Zero123Prior)
        prior = chosen
    image, x_t = torch.rand(RESOLUTION, RESOLUTION, 3), torch.randn(2, 4, 8, 8)
    picture, seen = views((0.5, 0.2)), views((0.9, 0.5), (-2.0, -0.1))
    t = torch.tensor([700, 700])
    found = prior.predict_noise(x_t, t, told(prior, image, picture, seen))
    nothing = prior.predict_noise(x_t, t, Condition(prior.encode_text(["", ""])))
    for row, (azimuth, elevation) in enumerate(((0.9, 0.5), (-2.0, -0.1))):
        turn = azimuth - 0.5
        last = math.pi / 2 - 0.2 if stable else 0.0
        pose = [0.2 - elevation, math.sin(turn), math.cos(turn), last]
        wanted, empty = published_step(prior, image, pose, x_t[row : row + 1], 700)
        torch.testing.assert_close(found[row : row + 1], wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(nothing[row : row + 1], empty, atol=1e-5, rtol=0)
    assert float((found - nothing).abs().max()) > 1e-3


def test_guidance_goes_from_the_null_condition_to_the_picture(prior: Zero123Prior) -> None:
    image, x_t = torch.rand(RESOLUTION, RESOLUTION, 3), torch.randn(2, 4, 8, 8)
    picture, seen = views((0.5, 0.2)), views((0.9, 0.5), (-2.0, -0.1))
    prompts = ViewPrompts.encode(prior, "", told=True, pictured=True)
    x, token = prior.encode_reference(image)
    rows = ImageConditioner(prompts, x, picture, token).rows(seen)
    t = torch.tensor([400, 400])
    found = Ask(prior, rows).guided(x_t, t, 5.0)
    e_y = prior.predict_noise(x_t, t, told(prior, image, picture, seen))
    e_0 = prior.predict_noise(x_t, t, Condition(prior.encode_text(["", ""])))
    torch.testing.assert_close(found, e_0 + 5.0 * (e_y - e_0), atol=1e-4, rtol=0)


def test_both_layouts_of_names_are_read(prior: Zero123Prior, tmp_path: Path) -> None:
    other = load_prior(PriorConfig(name=str(build_zero123(tmp_path / "kxic", "cc_projection"))))
    assert isinstance(other, Zero123Prior)
    torch.testing.assert_close(other.projection.weight, prior.projection.weight)
    assert (other.takes_reference, other.takes_camera, other.stable) == (True, False, False)
    stable = build_zero123(tmp_path / "Stable-Zero123")
    named = load_prior(PriorConfig(name=str(stable)))
    assert isinstance(named, Zero123Prior)
    assert named.stable


def test_pickles_and_strange_layers_are_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import save_file

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(UserError, match="pickle"):
        load_prior(PriorConfig(name=str(copy)))
    save_file({"proj.weight": torch.ones(3, 4)}, file)
    with pytest.raises(UserError, match="one linear layer"):
        load_prior(PriorConfig(name=str(copy)))
    save_file({"proj.weight": torch.ones(3, 4), "proj.bias": torch.ones(3)}, file)
    with pytest.raises(UserError, match="from 4 to 3"):
        load_prior(PriorConfig(name=str(copy)))
    checkpoint = tmp_path / "zero123-xl.ckpt"
    checkpoint.write_bytes(b"pickle")
    with pytest.raises(UserError, match="zero123-xl"):
        load_prior(PriorConfig(name=str(checkpoint)))


def test_the_pose_by_hand() -> None:
    """Views from higher have a negative first entry; to the camera's own right, a positive sine."""
    picture = views((0.5, 0.2))
    higher = relative_pose(picture, views((0.5, 0.6)))[0]
    torch.testing.assert_close(higher, torch.tensor([-0.4, 0.0, 1.0, 0.0]))
    right = relative_pose(picture, views((0.5 + math.pi / 2, 0.2)))[0]
    torch.testing.assert_close(right, torch.tensor([0.0, 1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    # The camera moves towards its own right as its azimuth grows.
    moved = views((0.5 + 1e-3, 0.2)).position - picture.position
    assert float((moved[0] * picture.c2w[0, :3, 0]).sum()) > 0
    own = 2 * math.degrees(math.atan(16 / 35))
    near = views((0.5, 0.2), distance=1.6, fovy=own)
    far = views((0.5, 0.2), distance=2.1, fovy=own)
    assert float(relative_pose(near, far)[0, 3]) == pytest.approx(0.5, abs=1e-5)
    zoomed = views((0.5, 0.2), distance=3.8, fovy=20.0)
    framed = 3.8 * math.tan(math.radians(10.0)) / (16 / 35)
    same = views((0.5, 0.2), distance=framed, fovy=own)
    assert float(relative_pose(zoomed, same)[0, 3]) == pytest.approx(0.0, abs=1e-5)


def test_a_view_is_found_by_the_pose_that_is_told() -> None:
    """Who goes by the pose from the picture's camera, as the papers have it, sees the view."""
    toy = build("a teal car")
    picture = views((0.7, 0.25), distance=3.0, fovy=40.0)
    seen = views((1.9, 0.6), (-0.4, -0.2), distance=3.0, fovy=40.0)
    for row in range(2):
        polar, sine, cosine, _ = relative_pose(picture, seen)[row].tolist()
        # Polar angles from +Z and azimuths counter-clockwise seen from above.
        theta = math.pi / 2 - 0.25 + polar
        phi = 0.7 + math.atan2(sine, cosine)
        there = views((phi, math.pi / 2 - theta), distance=3.0, fovy=40.0)
        found = photograph(toy, there, 48, backdrop=WHITE)
        wanted = photograph(toy, seen[row : row + 1], 48, backdrop=WHITE)
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)
        for mirrored in ((-phi, math.pi / 2 - theta), (phi, theta - math.pi / 2)):
            wrong = photograph(toy, views(mirrored, distance=3.0, fovy=40.0), 48, backdrop=WHITE)
            assert float((wrong - wanted).abs().mean()) > 0.01


def test_clip_sees_the_whole_picture_bicubically() -> None:
    image = torch.rand(1, 40, 40, 3)
    pixels = clip_pixels(image)
    assert pixels.shape == (1, 3, 224, 224)
    mean, std = 0.48145466, 0.26862954
    corners = pixels[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]] * std + mean
    torch.testing.assert_close(corners, image[0, [0, 0, -1, -1], [0, -1, 0, -1], 0])

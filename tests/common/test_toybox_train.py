"""The trainer of the embedded prior: what it draws, that it goes on to the same bits, folders."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from maquette.common.config.priors import PriorConfig
from maquette.common.device import computes_bf16
from maquette.common.embedded.door import load
from maquette.common.embedded.names import EMBEDDED, VERSION_FILE
from maquette.common.embedded.training import autoencoder, data, diffusion, loop, models
from maquette.common.embedded.training.command import blend_priors, train_prior
from maquette.common.embedded.training.settings import (
    KINDS,
    TrainConfig,
    settings_for,
)
from maquette.common.embedded.version import check_version, write_version
from maquette.common.embedded.vocabulary import HELD_OUT_COLORS, HELD_OUT_PATTERNS, token_ids
from maquette.common.errors import UserError
from maquette.common.priors.base import Condition, Reference
from maquette.common.priors.camera_features import (
    BUFFER,
    FEATURES,
    LABELS,
    SURFACE,
    camera_features,
    surface_map,
    with_reference,
)
from maquette.common.runs.checkpoints import checkpoint_path, read_tensors, steps_on_disk
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.scene.images import save_png
from maquette.common.toybox.grammar import CATEGORIES, COLORS, PATTERNS, VIEWS, Caption
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import photograph, surface_views

STEPS, CUT = 10, 5
VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"
COMMON = [
    *("text_width=16", "text_layers=1", "eval_views=2", "sample_steps=1", "log_every=2"),
    *("checkpoint_minutes=0", "publish_minutes=60", "warmup=3", "instances=2"),
]
TINY: dict[str, list[str]] = {
    "pixel": [*COMMON, "resolution=16", "widths=[8, 16]", "batch=4"],
    "vae": [*COMMON, "resolution=64", "crop=16", "widths=[8, 8, 8, 8]", "batch=4"],
    "latent": [*COMMON, "resolution=64", "widths=[8, 16]", "batch=4", "reuse=2", "memory=6"],
}
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**({"kind": "pixel", "images": 100, "resolution": 16} | changes))


def run(kind: str, out: Path, vae: Path | None, steps: int = STEPS, *more: str) -> Path:
    return train_prior(
        kind,
        str(out),
        images=4 * steps,
        device="cpu",
        vae=None if vae is None else str(vae),
        settings=[*TINY[kind], *more],
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ten steps of each kind at a stretch; values are the trainings' folders."""
    root = tmp_path_factory.mktemp("trained")
    for kind in ("vae", "pixel", "latent"):
        run(kind, root / kind, root / "vae" if kind == "latent" else None)
    return {kind: root / kind for kind in TINY}


def last_state(folder: Path) -> dict[str, Tensor]:
    tensors = read_tensors(checkpoint_path(folder / "checkpoints", STEPS))
    return {name: value for name, value in tensors.items() if name != "seconds"}


@pytest.mark.parametrize("kind", ["pixel", "vae", "latent"])
def test_a_training_that_is_cut_off_ends_with_the_same_bits(
    kind: str, trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = autoencoder.AutoencoderTask if kind == "vae" else diffusion.DiffusionTask
    vae = trained["vae"] if kind == "latent" else None
    loss, calls = task.loss, []

    def power_cut(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) > CUT:
            raise KeyboardInterrupt
        return loss(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(task, "loss", power_cut)
        with pytest.raises(KeyboardInterrupt):
            run(kind, tmp_path, vae)
    assert steps_on_disk(tmp_path / "checkpoints")[-1] == CUT
    torch.rand(3)  # whatever the global random state is, it plays no part
    run(kind, tmp_path, None)
    whole, resumed = last_state(trained[kind]), last_state(tmp_path)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    weights = [name[4:] for name in whole if name.startswith("net/")]
    assert any(not torch.equal(whole[f"net/{n}"], whole[f"average/{n}"]) for n in weights)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()]
    assert steps == [2, 4, 6, 8, 10, 10]


@pytest.mark.slow
def test_a_training_that_is_killed_ends_with_the_same_bits(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from maquette.common.embedded.training.command import train_prior;"
        f"train_prior('pixel', sys.argv[1], images={4 * STEPS}, device='cpu',"
        f" settings={TINY['pixel']!r})"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 120
    while not steps_on_disk(tmp_path / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    run("pixel", tmp_path, None)
    whole, resumed = last_state(trained["pixel"]), last_state(tmp_path)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_a_training_goes_on_with_a_larger_budget_and_a_lower_rate(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    run("pixel", tmp_path, None, 4)
    assert run("pixel", tmp_path, None, 4) == tmp_path / "model"
    assert steps_on_disk(tmp_path / "checkpoints")[-1] == 4
    train_prior("pixel", str(tmp_path), images=4 * 6, settings=["rate=1e-5"])
    assert steps_on_disk(tmp_path / "checkpoints")[-1] == 6
    said = json.loads((tmp_path / "model" / VERSION_FILE).read_text())["training"]
    assert said["images"] == 24
    assert said["settings"]["rate"] == 1e-5
    assert said["settings"]["widths"] == [8, 16]
    train_prior("pixel", str(tmp_path), minutes=1e-6)  # a budget in minutes, used up already
    with pytest.raises(UserError, match="widths: fixed once a training has begun"):
        train_prior("pixel", str(tmp_path), settings=["widths=[8, 24]"])
    with pytest.raises(UserError, match="holds the training of 'pixel'"):
        run("vae", tmp_path, None)


def test_the_network_learns(tmp_path: Path) -> None:
    run("pixel", tmp_path, None, 30, "rate=0.003", "checkpoint_minutes=60", "log_every=10")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.75 * losses[0]
    assert {"t 0.0-0.2", "t 0.8-1.0", "images/s", "rate"} <= lines[0].keys()
    assert {"seen", "held out", "held out t 0.4-0.6"} & lines[-1].keys() >= {"seen", "held out"}


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return orbit(2)


@pytest.mark.parametrize(("kind", "shape"), [("pixel", (3, 16, 16)), ("latent", (4, 8, 8))])
def test_the_folder_loads_as_a_prior_that_is_told_the_camera(
    kind: str, shape: tuple[int, int, int], trained: dict[str, Path], cameras: Cameras
) -> None:
    prior = load(PriorConfig(name=str(trained[kind] / "model")))
    assert prior.takes_camera
    assert prior.latent_shape == shape
    assert prior.prediction == "v_prediction"
    text = prior.encode_text(["a red mushroom", "a red mushroom"])
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).expand(2, *shape)
    t = torch.tensor([500, 500])
    told = prior.predict_noise(x, t, Condition(text, cameras))
    blind = prior.predict_noise(x, t, Condition(text))
    assert not torch.equal(told[0], told[1])
    assert torch.equal(blind[0], blind[1])
    other = prior.predict_noise(
        x, t, Condition(prior.encode_text(["a blue car", "a red mushroom"]))
    )
    assert not torch.equal(other[0], other[1])
    image = torch.rand(2, 2 * prior.resolution, 2 * prior.resolution, 3)
    assert prior.encode_image(image).shape == (2, *shape)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_the_prior_speaks_as_the_network_was_trained(
    kind: str, trained: dict[str, Path], cameras: Cameras
) -> None:
    """The door's text, camera and noise give what the trained average gives for its own inputs."""
    prior = load(PriorConfig(name=str(trained[kind] / "model"), dtype="float32"))
    state = read_tensors(checkpoint_path(trained[kind] / "checkpoints", STEPS))
    settings = settings_for(kind, trained[kind])
    net = models.Denoiser(settings)
    net.load_state_dict({k[8:]: v for k, v in state.items() if k.startswith("average/")})
    net = models.halved(net).float()  # what half precision leaves of it
    texts = ["a red mushroom", "a dotted blue and white cat, side view"]
    x = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([300, 800])
    with torch.no_grad():
        ids = torch.tensor([token_ids(text) for text in texts])
        poses = torch.zeros(2, 8)
        poses[:, 0], poses[:, 1] = cameras.azimuth, cameras.elevation
        poses[:, 2], poses[:, 5] = cameras.fovy, 1.0
        surface = surface_views(build("a red mushroom"), cameras, x.shape[-1])
        surface = surface.permute(0, 3, 1, 2)
        v = net.eval()(x, t, ids, torch.zeros_like(x), poses, surface)
    alpha, sigma = prior.schedule.at(t)
    expected = sigma * x + alpha * v
    condition = Condition(prior.encode_text(texts), cameras, surface=surface)
    assert prior.takes_surface
    torch.testing.assert_close(prior.predict_noise(x, t, condition), expected, atol=2e-5, rtol=1e-4)
    untold = prior.predict_noise(x, t, replace(condition, surface=None))
    assert float((untold - expected).abs().max()) > 1e-3


def test_the_prior_computes_as_it_was_trained(trained: dict[str, Path], cameras: Cameras) -> None:
    """Without a wish for a number format: float32 weights in bfloat16 where there are units."""
    source = str(trained["pixel"] / "model")
    prior = load(PriorConfig(name=source))
    assert prior.autocast == computes_bf16(torch.device("cpu"))
    assert next(prior.denoiser.parameters()).dtype == torch.float32
    exact = load(PriorConfig(name=source, dtype="float32"))
    assert not exact.autocast
    text = exact.encode_text(["a red mushroom"] * 2)
    x, t = torch.randn(2, *prior.latent_shape), torch.tensor([300, 800])
    found, expected = (p.predict_noise(x, t, Condition(text, cameras)) for p in (prior, exact))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.0)


def test_prompts_are_put_as_the_captions_are(trained: dict[str, Path]) -> None:
    prior = load(PriorConfig(name=str(trained["pixel"] / "model")))
    text = prior.encode_text(["The RED mushroom, back view.", "a red mushroom, back view"])
    states = text.tensors["states"]
    assert torch.equal(states[0], states[1])
    with pytest.raises(UserError, match="doesn't know 'lilac'"):
        prior.encode_text(["a lilac mushroom"])


def test_weights_of_another_toybox_are_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained["pixel"] / "model", folder)
    said = json.loads((folder / VERSION_FILE).read_text("utf-8"))
    (folder / VERSION_FILE).write_text(json.dumps(said | {"words": said["words"][:-1]}))
    with pytest.raises(UserError, match="never learned"):
        load(PriorConfig(name=str(folder)))


def test_a_latent_training_begins_with_what_a_pixel_one_knows(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    known = load_file(next((trained["pixel"] / "model" / "unet").glob("*.safetensors")))
    train_prior(
        "latent",
        str(tmp_path),
        images=4,
        device="cpu",
        vae=str(trained["vae"]),
        begin=str(trained["pixel"]),
        settings=[*TINY["latent"], "rate=1e-12"],
    )
    begun = load_file(next((tmp_path / "model" / "unet").glob("*.safetensors")))
    middle = ("mid_block.attentions.", "mid_block.resnets.1.")
    shared = {name for name in known if not name.startswith(middle)}
    assert shared == begun.keys()
    same = [name for name in shared if torch.equal(known[name], begun[name])]
    other = {name for name in shared if known[name].shape != begun[name].shape}
    assert other == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}
    assert len(same) > 0.9 * (len(shared) - len(other))
    with pytest.raises(UserError, match=r"--begin: .* holds no unet/config\.json"):
        train_prior("pixel", str(tmp_path / "new"), images=4, begin=str(trained["vae"]))
    with pytest.raises(UserError, match="not for vae"):
        train_prior("vae", str(tmp_path / "new"), images=4, begin=str(trained["pixel"]))


def test_a_network_grows_around_one_for_smaller_images(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    small = load_file(next((trained["pixel"] / "model" / "unet").glob("*.safetensors")))
    net = models.Denoiser(config(resolution=32, widths=(8, 8, 16), text_width=16, text_layers=1))
    taken = models.load_alike(net.unet, trained["pixel"] / "model" / "unet")
    grown = net.unet.state_dict()
    inner = [n for n in small if n.startswith(("mid_block.", "up_blocks.0.", "down_blocks.1."))]
    assert len(inner) > 40
    for name in inner:
        twin = name.replace("down_blocks.1.", "down_blocks.2.")
        assert torch.equal(grown[twin], small[name].float()), name
    outermost = "down_blocks.0.resnets.0.conv1.weight"
    assert not torch.equal(grown[outermost], small[outermost].float())
    assert taken >= len(inner)


def test_the_folders_load_with_plain_diffusers(trained: dict[str, Path]) -> None:
    from diffusers import AutoencoderKL, DiffusionPipeline

    for kind, parts in (("pixel", {"unet"}), ("latent", {"unet", "vae"})):
        folder = trained[kind] / "model"
        pipeline = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
        assert parts <= {name for name, part in pipeline.components.items() if part is not None}
        assert type(pipeline.unet).__name__ == "UNet2DConditionModel"
        assert type(pipeline.text_encoder).__name__ == "CLIPTextModel"
        check_version(folder)
        for file in folder.rglob("*.safetensors"):
            assert file.stat().st_size <= 15e6
    vae = AutoencoderKL.from_pretrained(trained["vae"] / "model")
    assert vae.config["scaling_factor"] > 0
    latent = DiffusionPipeline.from_pretrained(trained["latent"] / "model")
    assert latent.vae.config["scaling_factor"] == vae.config["scaling_factor"]


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_the_example_of_the_page_runs(kind: str, trained: dict[str, Path]) -> None:
    page = (ROOT / "docs" / "prior.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    place = f'"{trained[kind] / "model"}"'
    assert '"common/embedded/weights/pixel"' in example
    names: dict[str, Any] = {}
    example = example.replace("set_timesteps(30)", "set_timesteps(2)")
    exec(example.replace('"common/embedded/weights/pixel"', place), names)
    side = 16 if kind == "pixel" else 64
    assert names["images"].shape == (4, 3, side, side)
    assert bool(torch.isfinite(names["images"]).all())


def test_a_published_folder_does_not_say_where_it_was_made(trained: dict[str, Path]) -> None:
    for kind in ("pixel", "vae", "latent"):
        for file in (trained[kind] / "model").rglob("*.json"):
            assert str(trained[kind].parent) not in file.read_text(), file


def test_latents_have_unit_variance(trained: dict[str, Path]) -> None:
    prior = load(PriorConfig(name=str(trained["latent"] / "model")))
    settings = settings_for("latent", trained["latent"])
    images = data.Views(settings, stream=1).draw(0, 4).images.float() / 255.0
    assert 0.7 < float(prior.encode_image(images).square().mean().sqrt()) < 1.4


def test_an_autoencoder_is_kept_for_the_whole_training(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="learns behind an autoencoder"):
        run("latent", tmp_path / "new", None)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        run("latent", tmp_path / "new", tmp_path)
    other = run("vae", tmp_path / "other", None, 1)
    with pytest.raises(UserError, match="began with another autoencoder"):
        run("latent", trained["latent"], other)
    with pytest.raises(UserError, match="--vae is for latent"):
        run("pixel", tmp_path / "new", other)


def test_a_latent_prior_lends_its_autoencoder(trained: dict[str, Path], tmp_path: Path) -> None:
    run("latent", tmp_path, trained["latent"] / "model", 1)
    check_version(tmp_path / "vae")
    again = run("latent", tmp_path, None, 2)  # goes on with its own
    theirs, ours = (
        load_file(f / "vae" / VAE_WEIGHTS) for f in (trained["latent"] / "model", again)
    )
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"kind": "voxel"}, "'voxel' is no kind of training; choose one of: pixel, vae, latent"),
        ({}, "a training needs a budget: --minutes M or --images N"),
        ({"images": 8, "minutes": 1.0}, "a training needs a budget"),
        ({"images": 0}, "setting 'images'"),
        ({"images": 8, "settings": ["raet=1"]}, "unknown setting 'raet'; did you mean rate"),
        ({"images": 8, "settings": ["rate"]}, "--set takes key=value"),
        ({"images": 8, "settings": ["rate=[1"]}, "setting 'rate'"),
        ({"images": 8, "settings": ["widths=[12, 20]"]}, "setting 'widths.0'"),
        ({"images": 8, "settings": ["fovy=[50, 40]"]}, "fovy: expected two rising numbers"),
        ({"images": 8, "device": "tpu"}, "tpu"),
    ],
)
def test_mistakes_are_one_line(arguments: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train_prior(**({"kind": "pixel", "out": str(tmp_path / "new")} | arguments))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite at step 2"):
        run("pixel", tmp_path, None, STEPS, "rate=1e30", "warmup=0")


def test_the_training_never_draws_a_held_out_caption() -> None:
    rng = np.random.default_rng(0)
    drawn = [data.draw_caption(rng) for _ in range(5000)]
    assert {c.category for c in drawn} == set(CATEGORIES)
    assert {c.color for c in drawn} == set(COLORS)
    assert {c.pattern for c in drawn} == {None, *PATTERNS}
    for caption in drawn:
        assert caption.color not in HELD_OUT_COLORS[caption.category]
        assert caption.second not in HELD_OUT_COLORS[caption.category]
        if caption.pattern is not None:
            assert HELD_OUT_PATTERNS.get(caption.category) != caption.pattern
    held = [data.draw_caption(rng, held_out=True) for _ in range(200)]
    assert len({c.category for c in held}) > 25
    pairs = {(c.category, c.color) for c in held} | {(c.category, c.second) for c in held}
    pairs |= {(c.category, c.pattern) for c in held}
    known = {(k, c) for k, colors in HELD_OUT_COLORS.items() for c in colors}
    assert pairs & (known | set(HELD_OUT_PATTERNS.items()))


def test_the_share_of_patterns_is_what_it_is_said_to_be() -> None:
    rng = np.random.default_rng(0)
    for share in (0.5, 0.9):
        drawn = [data.draw_caption(rng, patterned=share) for _ in range(4000)]
        with_one = [c for c in drawn if c.pattern is not None]
        # Held-out pairs, oftener among patterns, are drawn again; 4000 draws spread by .008.
        assert len(with_one) / len(drawn) == pytest.approx(share, abs=0.05)
        assert sum(c.second is not None for c in with_one) / len(with_one) == pytest.approx(
            0.5, abs=0.06
        )


def test_views_cover_the_sphere_evenly() -> None:
    views = data.draw_views(
        config(reference_share=0.0, fovy=(30.0, 40.0)), 4000, np.random.default_rng(1), False
    )
    cameras = data.view_cameras(views)
    mean = cameras.position / 3.0
    # The mean of n even directions has a spread of 1/sqrt(3n) = .009 an axis.
    assert float(mean.mean(dim=0).abs().max()) < 0.04
    assert abs(float(mean[:, 2].square().mean()) - 1 / 3) < 0.02
    degrees = torch.rad2deg(cameras.fovy)
    assert 29.99 < float(degrees.min()) < 30.5
    assert 39.5 < float(degrees.max()) < 40.01
    canonical = np.mean([v.instance == 0 for v in views])
    assert 0.77 < canonical < 0.83
    assert max(v.instance for v in views) <= 64


def test_the_camera_is_told_or_the_text_names_the_view() -> None:
    rng = np.random.default_rng(2)
    (view,) = data.draw_views(config(), 1, rng, False)
    view = replace(view, azimuth=3.1, elevation=0.1)
    view = replace(view, reference=None)
    drawn = [(t.text, t.camera) for _ in range(4000) if (t := data.draw_told(config(), view, rng))]
    blind = [text for text, told in drawn if not told]
    told = [text for text, told in drawn if told]
    assert 0.08 < len(blind) / len(drawn) < 0.12
    assert {text for text in blind if text} == {f"{view.caption.text}, back view"}
    assert set(told) == {"", view.caption.text, f"{view.caption.text}, back view"}
    assert 0.08 < sum(not text for text, _ in drawn) / len(drawn) < 0.12
    assert 0.15 < sum("view" in text for text in told) / len(told) < 0.21
    above = replace(view, elevation=1.5)
    said = data.draw_told(config(camera_dropout=1.0, caption_dropout=0.0), above, rng)
    assert said.text.endswith("overhead view")
    assert {"back view", "overhead view"} <= set(VIEWS)


def test_a_batch_is_a_function_of_its_number_and_shows_what_it_says() -> None:
    settings = config(
        batch=6,
        resolution=32,
        camera_dropout=0.0,
        caption_dropout=0.0,
        reference_share=0.0,
        surface_share=1.0,
    )
    first, again = data.Views(settings)[3], data.Views(settings)[3]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, data.Views(settings)[4].images)
    assert not torch.equal(first.images, data.Views(settings, stream=1)[3].images)
    rng = np.random.default_rng([0, 0, 3])
    views = data.draw_views(settings, 6, rng, False)
    for row, view in enumerate(views):
        cameras = data.view_cameras([view])
        truth = photograph(build(view.caption, view.instance), cameras, 32)[0]
        shown = first.images[row].float() / 255.0
        assert float((shown - truth).abs().max()) <= 0.51 / 255
        surface = first.surfaces[row : row + 1].float()
        labels, painted = data.Poses.of(first.poses[row : row + 1]).inputs(surface)
        torch.testing.assert_close(labels[:, :12], camera_features(cameras))
        torch.testing.assert_close(painted, surface_map(surface))
        seen = surface_views(build(view.caption, view.instance), cameras, 32).permute(0, 3, 1, 2)
        torch.testing.assert_close(surface, seen, atol=1e-3, rtol=0)
        said = len(view.caption.text.split()) + 1  # a view's name may follow
        assert first.ids[row].tolist()[:said] == token_ids(view.caption.text)[:said]
    assert float(first.unit().min()) >= -1.0
    torch.testing.assert_close(
        first.unit()[0, :, 2, 5], first.images[0, 2, 5].float() / 255 * 2 - 1, atol=1e-6, rtol=0
    )


def test_a_camera_that_is_not_told_is_zeros() -> None:
    for dropout in (0.0, 1.0):
        blind = {"camera_dropout": dropout, "reference_share": 0.0, "surface_share": 1.0}
        batch = data.Views(config(batch=8, **blind))[0]
        labels, painted = data.Poses.of(batch.poses).inputs(batch.surfaces.float())
        assert labels.shape == (8, LABELS)
        assert painted.shape == (8, SURFACE, 16, 16)
        told = [bool(part.any()) for part in (labels, painted, batch.surfaces)]
        assert told == [dropout == 0.0] * 3
        assert not labels[:, 12:].any()


def test_half_of_the_views_come_with_their_surface() -> None:
    batch = data.Views(config(batch=200, camera_dropout=0.0))[0]
    shown = batch.surfaces[:, 0].flatten(1).any(dim=1).float().mean()
    assert 0.4 < float(shown) < 0.6
    none = data.Views(config(batch=20, surface_share=0.0))[0].surfaces
    assert none.shape == (20, BUFFER, 16, 16)
    assert not none.any()


def test_a_surface_that_is_shaken_stays_near_the_true_one() -> None:
    settings = config(batch=16, resolution=32, surface_share=1.0, camera_dropout=0.0)
    true = data.Views(settings)[0].surfaces.float()
    still = diffusion.shaken(true, 0.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(still, true, atol=1e-3, rtol=0)  # half precision's unit normals
    moved = diffusion.shaken(true, 0.04, torch.Generator().manual_seed(1))
    on = true[:, 0] > 0
    assert torch.equal(moved[:, 0], true[:, 0])
    assert not moved.movedim(1, -1)[~on].any()
    assert 0.02 < float((moved[:, 4:] - true[:, 4:]).abs().max()) <= 0.04
    cosines = (moved[:, 1:4] * true[:, 1:4]).sum(dim=1)[on]
    assert float(cosines.min()) > 0.85
    assert float(cosines.mean()) < 0.999


def test_reference_images_are_of_the_same_toy_before_white() -> None:
    settings = config(batch=40, resolution=32, reference_share=0.5)
    batch = data.Views(settings)[1]
    pose = data.Poses.of(batch.poses)
    shown = pose.pictured > 0
    assert 0 < int(shown.sum()) == len(batch.references) < 40
    views = data.draw_views(settings, 40, np.random.default_rng([0, 0, 1]), False)
    with_one = [view for view in views if view.reference is not None]
    for image, view, azimuth, elevation in zip(
        batch.references,
        with_one,
        pose.reference_azimuth[shown].tolist(),
        pose.reference_elevation[shown].tolist(),
        strict=True,
    ):
        assert view.reference == pytest.approx((azimuth, elevation))
        assert -20.0 <= math.degrees(elevation) <= 60.0
        camera = data.view_cameras([replace(view, azimuth=azimuth, elevation=elevation)])
        toy = build(view.caption, view.instance)
        truth = photograph(toy, camera, 32, backdrop=(1.0, 1.0, 1.0))[0]
        assert float((image / 255.0 - truth).abs().max()) <= 0.51 / 255
    labels, _ = pose.inputs(batch.surfaces.float())
    related = labels[:, 12:].any(dim=1)
    assert not related[~shown].any()
    assert related[shown].float().mean() > 0.6
    assert any(view.instance for view in with_one)


def test_a_network_begun_with_one_of_before_forgets_nothing(tmp_path: Path) -> None:
    """New inputs begin with no weight: the same answer, whatever they are told."""
    settings = config(resolution=64, widths=(8, 16, 16))
    net = models.Denoiser(settings)
    width = {"in_channels": 3, "projection_class_embeddings_input_dim": FEATURES}
    before: Any = UNet2DConditionModel.from_config({**net.unet.config, **width})
    before.save_pretrained(tmp_path / "unet")
    taken = models.load_alike(net.unet, tmp_path / "unet")
    assert taken == len(net.unet.state_dict())
    cameras, generator = orbit(2), torch.Generator().manual_seed(0)
    x, picture = torch.randn(2, 2, 3, 64, 64, generator=generator)
    states = torch.randn(2, 16, settings.text_width, generator=generator)
    t = torch.tensor([300, 900])
    with torch.no_grad():
        told = {"class_labels": camera_features(cameras).double()}
        expected = before.double()(
            x.double(), t, encoder_hidden_states=states.double(), **told
        ).sample
        other = orbit(2, elevation_deg=40.0)
        surface = torch.randn(2, BUFFER, 64, 64, generator=generator)
        seen, labels = with_reference(x, cameras, Reference(picture, other, cameras), surface)
        unet: Any = net.unet.double()
        seen, states, labels = seen.double(), states.double(), labels.double()
        found = unet(seen, t, encoder_hidden_states=states, class_labels=labels).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_what_a_teacher_answers_is_learned_where_nothing_new_is_told() -> None:
    """The error is the distance to the teacher there, and to the truth where a surface is told."""
    settings = config(resolution=16, widths=(8, 16))
    torch.manual_seed(0)
    net, teacher = models.Denoiser(settings), models.Denoiser(settings)
    schedule, _ = diffusion.diffusion_schedule(models.build_scheduler(clip=True))
    noise = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 3, 16, 16, generator=noise), torch.tensor([500, 500])
    surface = torch.zeros(2, BUFFER, 16, 16)
    surface[1] = 1.0
    toy = Caption("mushroom", "red")
    poses = torch.tensor([data.Told("", True).pose(data.View(toy, 0, 0.1, 0.2, 0.7))] * 2)
    ids = torch.tensor([token_ids("a red mushroom")] * 2)
    examples = diffusion.Examples(x, ids, poses, torch.zeros_like(x), surface)

    def errors(teacher: models.Denoiser | None) -> Tensor:
        noise.manual_seed(2)
        with torch.no_grad():
            return diffusion.velocity_errors(net, schedule, examples, t, noise, settings, teacher)

    alone, taught, own = errors(None), errors(teacher), errors(net)
    assert own[0] == 0.0
    assert float((taught[0] - alone[0]).abs()) > 1e-3
    torch.testing.assert_close(own[1], alone[1])
    torch.testing.assert_close(taught[1], alone[1])


def weights_of(folder: Path) -> dict[str, Tensor]:
    """All weights of a diffusers folder's denoiser."""
    found: dict[str, Tensor] = {}
    for part in ("unet", "text_encoder"):
        for file in sorted((folder / part).glob("*.safetensors")):
            found |= {f"{part}.{k}": v.float() for k, v in load_file(file).items()}
    return found


def test_a_blend_lies_between_two_trainings(trained: dict[str, Path], tmp_path: Path) -> None:
    """Weights are means in the given share; inputs that the first isn't told are the second's."""
    first, second, out = (tmp_path / name for name in ("first", "second", "out"))
    shutil.copytree(trained["pixel"] / "model", first)
    shutil.copytree(first, second)
    for folder, factor in ((first, 1.0), (second, 3.0)):
        for file in folder.rglob("*.safetensors"):
            values = load_file(file)
            if folder == first and "conv_in.weight" in values:  # as before there was a reference
                values["conv_in.weight"] = values["conv_in.weight"][:, :3].contiguous()
            save_file({k: factor * v for k, v in values.items()}, file)
        write_version(folder, {"images": factor})
    assert blend_priors(str(first), str(second), 0.25, str(out)) == out
    known, found = weights_of(trained["pixel"] / "model"), weights_of(out)
    assert known.keys() == found.keys()
    for name, value in known.items():
        wanted = 1.5 * value
        if name == "unet.conv_in.weight":
            wanted[:, 3:] = 3.0 * value[:, 3:]
        torch.testing.assert_close(found[name], wanted, rtol=2e-3, atol=1e-6, msg=name)
    load(PriorConfig(name=str(out)))
    for share, place, words in ((1.5, "new", "0 to 1"), (0.5, "out", "there already")):
        with pytest.raises(UserError, match=words):
            blend_priors(str(first), str(second), share, str(tmp_path / place))
    with pytest.raises(UserError, match="another network"):
        blend_priors(str(EMBEDDED["toybox-pixel"]), str(second), 0.5, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_dots_are_those_of_the_toybox() -> None:
    caption = Caption("owl", "teal", "pink", "dotted")
    cameras = orbit(1)
    for instance in (0, 3):
        ours = photograph(data.make_toy(caption, instance), cameras, 32)
        assert torch.equal(ours, photograph(build(caption, instance), cameras, 32))


def test_crops_are_parts_of_their_view() -> None:
    settings = config(kind="vae", batch=6, crop=32, widths=(8,) * 4, resolution=96)
    batch = data.Views(settings)[0]
    assert batch.images.shape == (6, 32, 32, 3)
    assert batch.ids.shape == (6, 16)
    rng = np.random.default_rng(4)
    views = data.draw_views(settings, 3, rng, False)
    whole = data.take_pictures(views, 96).float()
    state = rng.bit_generator.state
    crops = data.take_pictures(views, 32, data.draw_windows(96, 32, 3, rng)).float()
    rng.bit_generator.state = state
    corners = rng.integers(0, 96 - 32 + 1, size=(3, 2)).tolist()
    for crop, image, (top, left) in zip(crops, whole, corners, strict=True):
        part = image[top : top + 32, left : left + 32]
        assert part.std() > 1.0
        inside = (crop - part)[1:-1, 1:-1].abs()  # at the rim, antialiasing lacks its neighbours
        assert float((inside > 2.0).float().mean()) < 0.01


@pytest.mark.slow
def test_other_processes_render_the_same_batches() -> None:
    settings = config(batch=4)
    here = data.batches(data.Views(settings), 2, 0)
    there: Iterator[data.Batch] = data.batches(data.Views(settings), 2, 1)
    for _ in range(3):
        a, b = next(here), next(there)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_timesteps_are_stratified() -> None:
    noise = torch.Generator().manual_seed(0)
    t = diffusion.stratified_timesteps(50, 1000, noise)
    assert sorted((t // 20).tolist()) == list(range(50))
    assert t.tolist() != sorted(t.tolist())
    many = torch.cat([diffusion.stratified_timesteps(10, 1000, noise) for _ in range(400)])
    assert int(many.min()) < 5
    assert 995 <= int(many.max()) <= 999
    bands = diffusion.by_band(t.float(), t, 1000)
    assert list(bands) == ["t 0.0-0.2", "t 0.2-0.4", "t 0.4-0.6", "t 0.6-0.8", "t 0.8-1.0"]
    assert all(len(values) == 10 for values in bands.values())
    assert float(bands["t 0.2-0.4"].min()) >= 200
    assert float(bands["t 0.2-0.4"].max()) < 400


def test_a_network_that_knows_the_image_has_no_velocity_error() -> None:
    settings = config()
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    schedule = diffusion.diffusion_schedule(models.build_scheduler(clip=True))[0]

    class Oracle(torch.nn.Module):
        def forward(self, x_t: Tensor, t: Tensor, *told: Tensor) -> Tensor:
            alpha, sigma = schedule.at(t)
            return (alpha * x_t - x) / sigma  # v of x_t = alpha x + sigma eps

    errors = diffusion.velocity_errors(
        Oracle(),  # pyright: ignore[reportArgumentType]
        schedule,
        diffusion.Examples(
            x, torch.zeros(4, 16), torch.zeros(4, 8), x * 0, torch.zeros(4, 7, 16, 16)
        ),
        torch.tensor([1, 400, 700, 998]),
        torch.Generator().manual_seed(0),
        settings,
    )
    assert errors.shape == (4,)
    assert float(errors.max()) < 1e-4


def test_a_skew_draws_more_of_the_high_noise_levels() -> None:
    noise = torch.Generator().manual_seed(0)
    t = diffusion.stratified_timesteps(4000, 1000, noise, skew=1.0)
    # A density of 2t has a quarter of its mass below one half, and its mean at 2/3.
    assert abs(float((t < 500).double().mean()) - 0.25) < 0.005
    assert abs(float(t.double().mean()) / 1000 - 2 / 3) < 0.005


def test_errors_at_little_noise_count_as_those_of_the_clean_image() -> None:
    schedule = diffusion.diffusion_schedule(models.build_scheduler(clip=True))[0]
    t = torch.tensor([50, 300, 900])
    alpha, sigma = (level.flatten() for level in schedule.at(t))
    found = diffusion.snr_weights(schedule, t, cap=5.0)
    assert float((alpha[0] / sigma[0]) ** 2) > 5.0
    torch.testing.assert_close(found[0], 5.0 / (1.0 + (alpha[0] / sigma[0]) ** 2))
    assert found[1:].tolist() == [1.0, 1.0]


def test_sampling_with_a_network_that_knows_the_images_is_guided_beyond_them() -> None:
    settings = config(sample_steps=5, widths=(8, 16), text_width=16, text_layers=1)
    task = diffusion.DiffusionTask(settings, None, torch.device("cpu"))
    x = torch.rand(2, 3, 16, 16) - 0.5
    empty = torch.tensor(token_ids(""))

    class Oracle(torch.nn.Module):
        unet = task.net.unet

        def forward(self, x_t: Tensor, t: Tensor, ids: Tensor, *more: Tensor) -> Tensor:
            alpha, sigma = task.schedule.at(t)
            told = (ids != empty).any(dim=1).float()[:, None, None, None]
            return (alpha * x_t - torch.cat([x, x]) * (0.5 + 0.5 * told)) / sigma

    task.average = Oracle()
    ids = torch.tensor([token_ids("a red mushroom")] * 2)
    guided = 0.5 * x + diffusion.GUIDANCE * (x - 0.5 * x)
    found = task.sample(ids, torch.zeros(2, 8), torch.zeros(2, BUFFER, 16, 16))
    torch.testing.assert_close(found, guided, atol=1e-3, rtol=0)


def test_memory_keeps_the_newest_and_comes_back() -> None:
    def numbered(rows: Tensor) -> diffusion.Examples:
        column = rows[:, None]
        values = column.float()
        return diffusion.Examples(values, column, values, values, values)

    memory = diffusion.Memory(4)
    for first in (0, 3):
        memory.add(numbered(torch.arange(first, first + 3)))
    noise = torch.Generator().manual_seed(0)
    x, ids, poses, reference, surface = memory.draw(200, noise)
    assert sorted(set(ids[:, 0].tolist())) == [2, 3, 4, 5]
    assert torch.equal(x, poses)
    assert torch.equal(x, reference)
    assert torch.equal(x, surface)
    assert torch.equal(x.long(), ids)
    again = diffusion.Memory(4)
    again.load(memory.tensors(), torch.device("cpu"))
    for kept in (memory, again):
        kept.add(numbered(torch.tensor([6, 7])))
    a, b = memory.tensors(), again.tensors()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert sorted(a["memory/ids"][:, 0].tolist()) == [4, 5, 6, 7]


def test_the_rate_rises_stays_and_falls() -> None:
    factor = models.rate_factor
    assert factor(0, 0.0, 4) == 0.25
    assert factor(3, 0.1, 4) == 1.0
    assert factor(9, 0.5, 4) == 1.0
    assert factor(9, 0.75, 4) == pytest.approx(0.5)
    assert factor(9, 1.0, 4) == pytest.approx(0.0)
    assert factor(9, 1.2, 0) == pytest.approx(0.0)


def test_the_average_follows_the_network(trained: dict[str, Path]) -> None:
    """Fast at first, in the long run by a thousandth a step: an average of the last steps."""
    state = last_state(trained["pixel"])
    task = diffusion.DiffusionTask(settings_for("pixel", trained["pixel"]), None, CPU)
    training = loop.Training(task, task.config, trained["pixel"], CPU)
    training.load()
    name, parameter = next(iter(task.net.named_parameters()))
    before = training.ema.shadow_params[0].clone()
    assert torch.equal(before, state[f"average/{name}"])
    training.ema.step(task.net.parameters())
    decay = (1 + STEPS) / (10 + STEPS)
    expected = decay * before + (1 - decay) * parameter.detach()
    torch.testing.assert_close(training.ema.shadow_params[0], expected)
    training.average()
    torch.testing.assert_close(next(task.average.parameters()).detach(), expected)
    assert training.ema.get_decay(10**6 + 1) == TrainConfig.model_fields["ema"].default == 0.999


def test_kl_is_that_of_normal_distributions() -> None:
    mean, logvar = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    one = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    exact = torch.distributions.kl_divergence(one, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(autoencoder.kl_per_number(mean, logvar), exact)


def test_the_default_networks_are_small_enough_to_ship() -> None:
    parameters = 0
    for kind in KINDS:
        defaults = settings_for(kind, Path("nowhere"), images=1)
        if kind == "vae":
            networks = [models.build_autoencoder(defaults)]
        else:
            networks = [models.build_unet(defaults), models.build_text_encoder(defaults)]
        parameters += sum(p.numel() for net in networks for p in net.parameters())
    assert 2 * parameters < 64e6  # half precision


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    class Fails:
        def export(self, folder: Path) -> None:
            folder.mkdir()
            save_png(torch.zeros(2, 2, 3), folder / "half.png")
            raise OSError("no space left")

    model = tmp_path / "model"
    model.mkdir()
    (model / "kept").write_text("old")
    with pytest.raises(OSError, match="no space"):
        loop.export(Fails(), model, {})  # pyright: ignore[reportArgumentType]
    assert [p.name for p in model.iterdir()] == ["kept"]

"""CLIP as the judge: losses in closed form, augmentations, real models of random weights."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maquette.coarse.train import run_coarse
from maquette.common.begin import Choices, begin
from maquette.common.config.judges import ClipConfig
from maquette.common.config.reading import build_config
from maquette.common.embedded.vocabulary import build_tokenizer
from maquette.common.errors import UserError
from maquette.common.guidance import clip
from maquette.common.guidance.choose import check_prompts, judges_of
from maquette.common.guidance.clip import ClipJudge
from maquette.common.guidance.judges import Views
from maquette.common.scene.cameras import Cameras, orbit

CPU = torch.device("cpu")
PLAIN = ClipConfig(crops=2, backgrounds=False, crop_share=1.0)


def views_of(color: Tensor, opacity: Tensor, cameras: Cameras | None = None) -> Views:
    """Views `[2, 8, 8, 3]` of one colour and one opacity, before black."""
    even = opacity.expand(2, 8, 8)
    return Views(
        even[..., None] * color, cameras or orbit(2, distance=4.0), torch.zeros(3), lambda: even
    )


def mean_color(images: Tensor) -> Tensor:
    """A linear "CLIP": its embedding is the mean colour."""
    return images.mean(dim=(2, 3))


def test_the_loss_of_a_linear_clip_is_known() -> None:
    text = torch.tensor([3.0, 0.0, 4.0])
    judge = ClipJudge(mean_color, text, 4, PLAIN)
    cameras = orbit(2, distance=4.0, fovy_deg=math.degrees(2 * math.atan(0.5 / 1.2)))
    judged = judge(views_of(torch.tensor([0.2, 0.3, 0.6]), torch.tensor(0.25), cameras), 0)
    cosine = (0.2 * 3 + 0.6 * 4) / (5 * math.sqrt(0.2**2 + 0.3**2 + 0.6**2))
    target = 1.0 - 0.5 * 1.2**2 / 1.2  # of the transmittance, which is 0.75 and so above it
    assert float(judged.loss) == pytest.approx(-cosine - 0.5 * target, abs=1e-5)
    assert judged.watch == pytest.approx({"similarity": cosine, "opacity": 0.25}, abs=1e-5)


def test_descending_leads_to_the_known_maximum() -> None:
    """The cosine with the text is greatest, 1, where the colour is parallel to it."""
    text = torch.tensor([0.9, 0.3, 0.1])
    judge = ClipJudge(mean_color, text, 4, PLAIN)
    color = torch.tensor([0.2, 0.5, 0.8], requires_grad=True)
    optimizer = torch.optim.Adam([color], lr=0.02)
    for step in range(300):
        optimizer.zero_grad()
        judge(views_of(color, torch.tensor(1.0)), step).loss.backward()
        optimizer.step()
    found = color.detach() / color.detach().norm()
    torch.testing.assert_close(found, text / text.norm(), atol=2e-2, rtol=0)


@pytest.mark.parametrize(("opacity", "slope"), [(0.3, 0.5), (0.05, 0.0)])
def test_emptiness_is_rewarded_up_to_its_target(opacity: float, slope: float) -> None:
    """d/d opacity of `-w min(tau, 1 - opacity)`: w while there is too much, nothing below."""
    value = torch.tensor(opacity, requires_grad=True)
    judge = ClipJudge(lambda images: torch.ones(len(images), 1), torch.ones(1), 4, PLAIN)
    fovy = math.degrees(2 * math.atan(0.5 / math.sqrt(1.2)))  # the target counts as it stands
    judge(
        views_of(torch.ones(3), value, orbit(2, distance=4.0, fovy_deg=fovy)), 500
    ).loss.backward()
    assert value.grad is not None
    assert float(value.grad) == pytest.approx(slope, abs=1e-6)


def test_the_target_falls_geometrically_and_grows_with_the_lens() -> None:
    one = torch.ones(1)
    fovy = 2 * math.atan(0.5 / math.sqrt(1.2))
    camera = Cameras(one, one, 4.0 * one, fovy * one)

    def target(step: int, camera: Cameras = camera) -> float:
        return float(clip.opacity_target(ClipConfig(), camera, step))

    assert target(0) == pytest.approx(0.5)
    assert target(250) == pytest.approx(math.sqrt(0.05))
    assert target(500) == target(9000) == pytest.approx(0.1)
    assert target(500, Cameras(one, one, 2.0 * one, fovy * one)) == pytest.approx(0.4)
    assert target(0, Cameras(one, one, 1.0 * one, fovy * one)) == 1.0


def test_backgrounds_are_of_three_kinds_within_range() -> None:
    torch.manual_seed(0)
    plain = clip.random_backgrounds(60, 32, 32, blur=0.0)
    assert plain.shape == (60, 32, 32, 3)
    assert 0.0 <= float(plain.min()) < 0.01
    assert 0.99 < float(plain.max()) <= 1.0
    plain = (plain * 1e4).round() / 1e4
    colors = [len(image.reshape(-1, 3).unique(dim=0)) for image in plain]
    neighbours = (plain[:, :, 1:] - plain[:, :, :-1]).abs().mean(dim=(1, 2, 3))
    checkers = torch.tensor([count == 2 for count in colors])
    noise = ~checkers & (neighbours > 0.28)  # independent uniforms differ by 1/3 on average
    smooth = ~checkers & (neighbours < 0.28)
    counts = [int(kind.sum()) for kind in (checkers, noise, smooth)]
    assert sum(counts) == 60
    assert min(counts) > 10
    (first,) = torch.nonzero(checkers)[0].tolist()
    assert torch.equal(plain[first, 0, 0], plain[first, 3, 3])
    assert torch.equal(plain[first, 0, 0], plain[first, 4, 4])
    assert not torch.equal(plain[first, 0, 0], plain[first, 0, 4])


def test_a_blur_has_the_spread_it_says() -> None:
    image = torch.zeros(2, 1, 64, 64)
    image[:, :, 32, 32] = 1.0
    sigma = torch.tensor([2.0, 4.0])
    soft = clip.blurred(image, sigma)
    place = torch.arange(64.0) - 32
    for row, wanted in zip(soft, sigma.tolist(), strict=True):
        along = row[0].sum(dim=0)
        assert float(along.sum()) == pytest.approx(1.0, abs=1e-4)
        assert float((along * place**2).sum()) == pytest.approx(wanted**2, rel=1e-3)
    torch.testing.assert_close(clip.blurred(image, torch.zeros(2)), image, atol=1e-6, rtol=0)


def test_crops_are_parts_of_the_image() -> None:
    ramp = torch.linspace(0.0, 1.0, 20)
    image = ramp.expand(6, 3, 20, 20)
    torch.manual_seed(1)
    crops = clip.random_crops(image, 0.5, 10)
    assert crops.shape == (6, 3, 10, 10)
    starts = crops[:, 0, 0, 0]
    assert len(starts.unique()) > 1
    steps = crops[:, :, :, 1:] - crops[:, :, :, :-1]
    torch.testing.assert_close(steps, torch.full_like(steps, 1 / 19), atol=1e-5, rtol=0)


def test_backgrounds_replace_what_lies_behind() -> None:
    """Opaque pixels stay, transparent ones show the new background, whatever was there."""
    config = ClipConfig(crops=3, crop_share=1.0)
    judge = ClipJudge(mean_color, torch.ones(3), 8, config)
    torch.manual_seed(0)
    opaque = judge.augmented(views_of(torch.full((3,), 0.3), torch.tensor(1.0)))
    torch.testing.assert_close(opaque, torch.full_like(opaque, 0.3), atol=1e-5, rtol=0)
    empty = judge.augmented(views_of(torch.full((3,), 0.3), torch.tensor(0.0)))
    assert empty.shape == (6, 3, 8, 8)
    assert len({round(float(image.mean()), 5) for image in empty}) == 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP model of random weights, saved by transformers."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shape,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 16,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        },
        vision_config={**shape, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


def test_a_real_model_says_what_its_own_classes_say(model: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    config = ClipConfig(model=str(model))
    judge = ClipJudge.of_model(config, "a red mushroom", CPU)
    assert judge.side == 32
    whole = CLIPModel.from_pretrained(model).eval()
    tokens = CLIPTokenizer.from_pretrained(model)(["a red mushroom"], return_tensors="pt")
    images = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        said = whole(**tokens, pixel_values=(images - mean) / std)
        found = torch.nn.functional.normalize(judge.encode(images), dim=-1) @ judge.text
    expected = said.logits_per_image[:, 0] / whole.logit_scale.exp()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_its_gradient_reaches_the_views(model: Path) -> None:
    judge = ClipJudge.of_model(ClipConfig(model=str(model), crops=2), "a blue cat", CPU)
    color = torch.full((3,), 0.5, requires_grad=True)
    judge(views_of(color, torch.tensor(0.7)), 0).loss.backward()
    assert color.grad is not None
    assert bool(torch.isfinite(color.grad).all())
    assert float(color.grad.abs().min()) > 0.0
    assert judge.tensors() == {}


def test_a_prompt_that_is_cut_is_told(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="maquette"):
        ClipJudge.of_model(ClipConfig(model=str(model)), "a red mushroom " * 9, CPU)
    assert "longer than the CLIP text encoder takes" in caplog.text


def test_a_run_is_judged_by_clip_alone(model: Path, tmp_path: Path) -> None:
    """No prior is loaded or asked; the numbers to watch are CLIP's."""
    pairs = [
        *("coarse.steps=2", "coarse.resolution=16", "coarse.samples=16", "coarse.clip.crops=1"),
        *("coarse.occupancy.resolution=16", "coarse.field.grid.levels=2", "handoff.resolution=16"),
        *("coarse.field.grid.log2_entries=8", "coarse.field.grid.finest_resolution=16"),
        *("handoff.views=16", "handoff.view_resolution=32", "coarse.prior=./nowhere"),
        f"coarse.clip={model}",
        f"fine.clip={model}",
    ]
    choices = Choices("dreamfields", pairs, device="cpu", out=str(tmp_path / "run"))
    run = begin("anything at all", choices)
    assert judges_of(run.config.coarse) == {"clip": 1.0}
    run_coarse(run)
    events = [json.loads(line) for line in (run.folder / "events.jsonl").open()]
    (last,) = [event for event in events if event["event"] == "checkpoint"]
    assert {"loss", "similarity", "opacity"} <= last.keys()
    assert not any(event["event"] == "prior loaded" for event in events)


@pytest.mark.parametrize(
    ("pairs", "wrong"),
    [
        (["coarse.judges.clip=0"], "coarse.judges: all weights are 0"),
        (["coarse.clip=./nowhere/at all"], 'clip.model: "./nowhere/at all" is neither a folder'),
        (["coarse.clip={folder}"], "holds no CLIP model"),
        (["coarse.clip={other}"], "is of kind 'bert', not a CLIP model"),
        (["coarse.clip={damaged}"], "is damaged"),
    ],
)
def test_what_is_no_clip_model_is_refused_before_a_run(
    pairs: list[str], wrong: str, tmp_path: Path, model: Path
) -> None:
    places = {name: tmp_path / name for name in ("folder", "other", "damaged")}
    for place in places.values():
        place.mkdir()
    (places["other"] / "config.json").write_text('{"model_type": "bert"}')
    (places["damaged"] / "config.json").write_text("{")
    told = [f"fine.clip={model}", *(pair.format(**places) for pair in pairs)]
    with pytest.raises(UserError, match=wrong):
        check_prompts(build_config("a corgi", "dreamfields", told))

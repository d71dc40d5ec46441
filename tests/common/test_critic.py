"""VSD's critic on small real architectures: starts as the prior, learns, leaves the prior alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maquette.common.config.priors import PriorConfig
from maquette.common.config.reading import build_config
from maquette.common.embedded.door import load
from maquette.common.errors import UserError
from maquette.common.guidance.ask import Ask
from maquette.common.guidance.choose import require_peft
from maquette.common.guidance.conditions import Rows
from maquette.common.guidance.critic import LoraCritic, time_embedding
from maquette.common.guidance.judges import Views
from maquette.common.guidance.prepare import prepare_judges
from maquette.common.losses import VSD, CriticConfig
from maquette.common.priors.base import Condition
from maquette.common.priors.loading import load_prior
from maquette.common.priors.pretrained import PretrainedPrior
from maquette.common.runs.folder import Run
from maquette.common.runs.stage import COARSE
from maquette.common.scene.cameras import orbit
from tests.reference.tiny_models import Family, build

FAMILIES: tuple[Family, ...] = ("sd15", "sd2v", "sdxl", "if", "sd3", "flux", "camera-pixel")
TEXTS = ["a red chair, front view", "a red chair, back view"]
VIEWS = orbit(4)[torch.tensor([0, 2])]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: build(name, root / name) for name in FAMILIES}


def loaded(folder: Path, **options) -> PretrainedPrior:
    return load_prior(PriorConfig(name=str(folder), **options))


def inputs(prior: PretrainedPrior) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *prior.latent_shape, generator=generator)
    return x, torch.tensor([300, 600])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_as_the_prior_and_leaves_it_alone(
    family: Family, models: dict[str, Path]
) -> None:
    prior = loaded(models[family])
    x, t = inputs(prior)
    told = Condition(prior.encode_text(TEXTS), VIEWS)
    before = prior.predict_noise(x, t, told)
    torch.manual_seed(0)
    critic = LoraCritic(prior, CriticConfig(learning_rate=1e-2, camera_dropout=0.0))
    torch.testing.assert_close(critic.predict_noise(x, t, told, VIEWS), before)
    weights = {n: p.clone() for n, p in prior.denoiser.named_parameters() if "lora" not in n}
    for _ in range(3):
        critic.update(x, told, VIEWS, torch.default_generator)
    after = critic.predict_noise(x, t, told, VIEWS)
    assert (after - before).abs().max() > 1e-3
    assert torch.equal(prior.predict_noise(x, t, told), before)
    for name, parameter in prior.denoiser.named_parameters():
        assert "lora" in name or torch.equal(parameter, weights[name])
    # It is told the camera: the same views from elsewhere look different to it.
    elsewhere = critic.predict_noise(x, t, told, orbit(4)[torch.tensor([1, 3])])
    assert (elsewhere - after).abs().max() > 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_it_can_lie_on_all_layers(family: Family, models: dict[str, Path]) -> None:
    """Convolutions and feed-forward layers learn too, and the prior stays as it was."""
    prior = loaded(models[family])
    x, t = inputs(prior)
    told = Condition(prior.encode_text(TEXTS), VIEWS)
    before = prior.predict_noise(x, t, told)
    few = len(LoraCritic(loaded(models[family]), CriticConfig()).tensors())
    critic = LoraCritic(prior, CriticConfig(layers="all", learning_rate=1e-2))
    start = {key: value.clone() for key, value in critic.tensors().items()}
    assert len(start) > few
    torch.testing.assert_close(critic.predict_noise(x, t, told, VIEWS), before)
    critic.update(x, told, VIEWS, torch.default_generator)
    moved = [key for key, value in critic.tensors().items() if "lora_B" in key and value.any()]
    assert any("attn" not in key for key in moved)
    assert torch.equal(prior.predict_noise(x, t, told), before)


def test_it_learns_the_renders(models: dict[str, Path]) -> None:
    """On one fixed render its error falls below the prior's, and VSD's gradient is their gap."""
    prior = loaded(models["sd15"])
    x, t = inputs(prior)
    told, empty = (Condition(prior.encode_text(texts)) for texts in (TEXTS, ["", ""]))
    torch.manual_seed(0)
    critic = LoraCritic(prior, CriticConfig(rank=8, learning_rate=3e-3, updates=10))
    for _ in range(10):
        critic.update(x, told, VIEWS, torch.default_generator)
    errors = {"prior": 0.0, "critic": 0.0}
    for _ in range(30):
        at, noise = torch.randint(1000, (2,)), torch.randn(x.shape)
        x_t = prior.schedule.add_noise(x, noise, at)
        said = {
            "prior": prior.predict_noise(x_t, at, told),
            "critic": critic.predict_noise(x_t, at, told, VIEWS),
        }
        for name, seen in said.items():
            errors[name] += float((seen - noise).square().mean())
    assert errors["critic"] < 0.93 * errors["prior"], errors
    x_t = prior.schedule.add_noise(x, noise, t)
    ask = Ask(
        prior,
        Rows(told, empty),
        kind="one",
        critic=lambda x_t, t: critic.predict_noise(x_t, t, told, None),
    )
    gap = prior.predict_noise(x_t, t, told) - critic.predict_noise(x_t, t, told, None)
    torch.testing.assert_close(VSD().gradient(x, x, t, noise, ask).x, gap)
    assert gap.abs().max() > 1e-2


def test_resumed_it_has_the_same_bits(models: dict[str, Path]) -> None:
    """Cut off after 2 of 4 updates, in another process' place: a fresh prior, another seed."""

    def fresh(seed: int) -> tuple[LoraCritic, torch.Tensor, PretrainedPrior]:
        torch.manual_seed(seed)
        prior = loaded(models["sd15"])
        return LoraCritic(prior, CriticConfig(learning_rate=1e-2)), inputs(prior)[0], prior

    torch.use_deterministic_algorithms(True)
    try:
        whole, x, prior = fresh(0)
        told = Condition(prior.encode_text(TEXTS), VIEWS)
        generator = torch.Generator().manual_seed(9)
        for step in range(4):
            if step == 2:
                kept = {k: v.clone() for k, v in whole.tensors().items()}
                state = generator.get_state()
            whole.update(x, told, VIEWS, generator)
        resumed, _, _ = fresh(1)
        resumed.load(kept)
        generator.set_state(state)
        for _ in range(2):
            resumed.update(x, told, VIEWS, generator)
    finally:
        torch.use_deterministic_algorithms(False)
    ours, theirs = whole.tensors(), resumed.tensors()
    assert ours.keys() == theirs.keys()
    assert any("exp_avg" in key for key in ours)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not torch.equal(ours["camera"], kept["camera"])


def test_half_precision_learns_in_full(models: dict[str, Path]) -> None:
    prior = loaded(models["sd15"], dtype="bfloat16")
    critic = LoraCritic(prior, CriticConfig())
    assert {tensor.dtype for tensor in critic.tensors().values()} == {torch.float32}
    x, _ = inputs(prior)
    assert critic.update(x, Condition(prior.encode_text(TEXTS)), VIEWS, None) > 0


def test_checkpointing_changes_no_value(models: dict[str, Path]) -> None:
    found = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        prior = loaded(models["sd15"])
        critic = LoraCritic(prior, CriticConfig(checkpoint=checkpoint, learning_rate=1e-2))
        torch.manual_seed(1)
        told = Condition(prior.encode_text(TEXTS))
        critic.update(inputs(prior)[0], told, VIEWS, None)
        found.append(critic.tensors())
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value)


def test_where_it_cannot_be(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    prior = loaded(models["sd15"])
    with pytest.raises(UserError, match="no place to tell a Linear the camera"):
        time_embedding(torch.nn.Linear(1, 1))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        require_peft()
    with pytest.raises(UserError, match="pip install"):
        LoraCritic(prior, CriticConfig())
    prior.options = PriorConfig(name=prior.source, offload="group")
    with pytest.raises(UserError, match="offload none or model"):
        LoraCritic(prior, CriticConfig())


def test_it_computes_as_the_prior_does() -> None:
    """Where float32 weights compute in bfloat16, the first critic is still the prior."""
    prior = load(PriorConfig(name="toybox-pixel"))
    prior.autocast = True  # whether or not this processor has units for it
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 3, 64, 64, generator=generator), torch.tensor([300, 600])
    told = Condition(prior.encode_text(["a red chair", "a blue cat"]), VIEWS)
    before = prior.predict_noise(x, t, told)
    critic = LoraCritic(prior, CriticConfig())
    assert torch.equal(critic.predict_noise(x, t, told, VIEWS), before)
    prior.autocast = False
    exact = critic.predict_noise(x, t, told, VIEWS)
    assert (exact - before).abs().max() > 1e-4


def test_the_judge_trains_and_keeps_it(models: dict[str, Path], tmp_path: Path) -> None:
    """It learns after the scene's own step, when the stage says so, from what was judged."""
    settings = [f"coarse.prior={models['camera-pixel']}", "coarse.prior.tell_camera=false"]
    settings += ["coarse.distillation=vsd", "coarse.distillation.critic.learning_rate=0.01"]
    settings += ["coarse.distillation.critic.camera_dropout=0"]
    run = Run(tmp_path, build_config("a red chair", None, settings))
    judges = prepare_judges(run, COARSE, torch.device("cpu"))
    start = {key: value.clone() for key, value in judges.tensors().items()}
    for step in range(2):
        image = torch.rand(2, 32, 32, 3)
        before = {key: value.clone() for key, value in judges.tensors().items()}
        judges(Views(image, VIEWS, torch.zeros(3), lambda: torch.ones(2, 32, 32)), step)
        assert all(torch.equal(judges.tensors()[key], value) for key, value in before.items())
        judges.learn()
    # Though the prior is blind here, the critic is told the camera.
    assert not torch.equal(judges.tensors()["prior/camera"], start["prior/camera"])
    again = prepare_judges(run, COARSE, torch.device("cpu"))
    again.load({})  # the checkpoint of step 0 knows no critic
    assert all(torch.equal(again.tensors()[key], value) for key, value in start.items())
    again.load(judges.tensors())
    for key, value in judges.tensors().items():
        assert torch.equal(again.tensors()[key], value)
    judges.learn()  # nothing new was judged: nothing is learned
    for key, value in judges.tensors().items():
        assert torch.equal(again.tensors()[key], value)

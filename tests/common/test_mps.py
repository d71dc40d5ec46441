"""Apple's GPU, as far as it can be played: the network there, the scene on the CPU, no float64."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from maquette.common import device as device_module
from maquette.common.config.priors import PriorConfig
from maquette.common.config.reading import build_config
from maquette.common.device import computes_bf16, devices, pick_device, prior_device
from maquette.common.errors import UserError
from maquette.common.guidance import prepare
from maquette.common.guidance.away import Away
from maquette.common.guidance.judges import Views
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.priors.loading import choose_dtype
from maquette.common.runs.stage import FINE
from maquette.common.scene.cameras import orbit
from tests.common.test_no_stalls import VIEWS, send_texts, tiny_judge
from tests.reference.played_device import DEVICE, Played, Playing

CPU, MPS = torch.device("cpu"), torch.device("mps")


@pytest.fixture
def a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_mac_is_told_apart(a_mac: None) -> None:
    assert "mps" in devices()
    assert pick_device("mps") == pick_device("auto") == CPU  # the scene's
    assert [prior_device(name, CPU) for name in ("mps", "auto", "cpu")] == [MPS, MPS, CPU]
    assert prior_device("auto", torch.device("cuda")) == torch.device("cuda")
    assert choose_dtype(PriorConfig(dtype="auto"), "sd", MPS) == torch.float32
    assert choose_dtype(PriorConfig(dtype="float16"), "sd", MPS) == torch.float16
    assert not computes_bf16(MPS)


def test_another_machine_offers_none() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this is a Mac")
    with pytest.raises(UserError, match="'mps' isn't there"):
        pick_device("mps")
    assert prior_device("auto", CPU) == CPU


@pytest.mark.parametrize(("name", "away"), [("exact", False), ("sd15", True)])
def test_only_networks_go_there(a_mac: None, monkeypatch, name: str, away: bool) -> None:
    asked = []

    def judge(run, stage, device, config, prompt, pin):
        asked.append(device)
        return SimpleNamespace(group=1, learn=None, tensors=None, load=None)

    monkeypatch.setattr(prepare, "_prior_judge", judge)
    config = build_config("a red mushroom", None, [f"fine.prior.name={name}"], device="mps")
    made = prepare.make_judge("prior", SimpleNamespace(config=config), FINE, CPU, MPS)  # type: ignore
    assert asked == [MPS if away else CPU]
    assert isinstance(made, Away) == away


def test_a_prior_elsewhere_has_the_same_opinion(tmp_path: Path) -> None:
    pixels = torch.rand(VIEWS, 32, 32, 3)

    def seen() -> Views:
        image = pixels.clone().requires_grad_(True)
        return Views(image, orbit(VIEWS), torch.zeros(3), lambda: image[..., 0])

    def judge_on(device: torch.device) -> ScoreDistillation:
        torch.manual_seed(5)
        return tiny_judge("sd15", tmp_path / device.type, device)

    here, near, judge = seen(), judge_on(CPU), judge_on(DEVICE)
    torch.manual_seed(3)
    expected = near(here, 1)
    expected.loss.backward()
    device_module._constant.cache_clear()
    with Playing(torch.float64):
        send_texts(judge, DEVICE)
        there = seen()
        torch.manual_seed(3)
        judged = Away(judge, DEVICE)(there, 1)
        judged.loss.backward()
        assert not isinstance(judged.loss, Played)
        assert not isinstance(there.image.grad, Played)
        assert isinstance(next(judge.prior.denoiser.parameters()), Played)  # type: ignore
    device_module._constant.cache_clear()
    torch.testing.assert_close(judged.loss, expected.loss)
    torch.testing.assert_close(there.image.grad, here.image.grad)
    assert float(judged.watch["gradient"]) == pytest.approx(float(expected.watch["gradient"]))

"""Everything that can go wrong on the way to a prior ends in one line with a cause and a remedy."""

from __future__ import annotations

import builtins
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from maquette.common.config.priors import PriorConfig
from maquette.common.embedded import door
from maquette.common.errors import UserError
from maquette.common.priors import loading
from maquette.common.priors.loading import (
    check_text_encoders,
    choose_dtype,
    family_of,
    load_prior,
    locate,
)
from maquette.common.priors.location import ALIASES, weights_file
from maquette.common.priors.memory import GIB, choose_memory, out_of_memory_advice, resident
from maquette.common.priors.noise import diffusion_schedule
from maquette.common.priors.pretrained import truncation_note
from tests.reference.tiny_models import RESOLUTION, build, clip_tokenizer


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sd15", tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture
def broken(sd15: Path, tmp_path: Path) -> Path:
    """A copy of a good model, to be damaged."""
    return Path(shutil.copytree(sd15, tmp_path / "broken"))


def complaint(options: PriorConfig) -> str:
    """The one line `load_prior` ends with."""
    with pytest.raises(UserError) as caught:
        load_prior(options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def answer(monkeypatch: pytest.MonkeyPatch, *replies: Exception) -> list[str]:
    """Make the hub answer with these errors in turn; returns the repositories asked for."""
    asked: list[str] = []

    def download(repository: str, *args: Any, **kwargs: Any) -> str:
        asked.append(repository)
        raise replies[len(asked) - 1]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def refusal(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} refused", response=response)


def test_nothing_cached_and_offline() -> None:
    line = complaint(PriorConfig(name="someone/model"))
    assert "someone/model" in line
    assert "HF_HUB_OFFLINE" in line
    assert "folder" in line


def test_gated_is_told_before_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, refusal(errors.GatedRepoError, 403))
    line = complaint(PriorConfig(name="if"))
    assert ALIASES["if"][0] in line
    assert "licence" in line
    assert "hf auth login" in line


def test_not_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, refusal(errors.RepositoryNotFoundError, 404))
    line = complaint(PriorConfig(name="someone/model"))
    assert "not on the hub" in line
    assert "mirror" in line


def test_mirrors_are_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = [refusal(errors.RepositoryNotFoundError, 404), errors.LocalEntryNotFoundError("no")]
    asked = answer(monkeypatch, *replies)
    line = complaint(PriorConfig(name="sd21-base"))
    assert asked == list(ALIASES["sd21-base"])
    assert asked[0] in line
    assert "not on the hub" in line


def test_unknown_revision_and_foreign_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, refusal(errors.RevisionNotFoundError, 404))
    assert "no revision v9" in complaint(PriorConfig(name="someone/model", revision="v9"))
    answer(monkeypatch, refusal(errors.RemoteEntryNotFoundError, 404))
    assert "not a diffusers model" in complaint(PriorConfig(name="someone/model"))
    answer(monkeypatch, refusal(errors.HfHubHTTPError, 503))
    assert "try again later" in complaint(PriorConfig(name="someone/model"))


def test_names_that_are_nothing() -> None:
    assert "sd15" in complaint(PriorConfig(name="sd-15"))
    assert "there is no folder" in complaint(PriorConfig(name="./nowhere"))
    assert "there is no folder" in complaint(PriorConfig(name="runs/models/nowhere"))


def test_folders_that_are_no_model(sd15: Path, tmp_path: Path) -> None:
    assert "no model_index.json" in complaint(PriorConfig(name=str(tmp_path)))
    assert "whole pipeline" in complaint(PriorConfig(name=str(sd15 / "unet")))
    save_file({"a": torch.zeros(1)}, tmp_path / "pytorch_lora_weights.safetensors")
    assert "lora option" in complaint(PriorConfig(name=str(tmp_path)))
    file = tmp_path / "pytorch_lora_weights.safetensors"
    assert "beside a prior" in complaint(PriorConfig(name=str(file)))
    (tmp_path / "model_index.json").write_text("{ half")
    assert "damaged" in complaint(PriorConfig(name=str(tmp_path)))


def index(sd15: Path, **changes: Any) -> dict[str, Any]:
    return json.loads((sd15 / "model_index.json").read_text()) | changes


def test_other_kinds_of_model_are_named(sd15: Path) -> None:
    core = index(sd15)
    foreign = [
        index(sd15, _class_name="OtherPipeline", movq=["diffusers", "VQModel"]),
        index(sd15, _class_name="OtherPipeline", unet=["diffusers", "UNet2DModel"]),
        index(sd15, _class_name="OtherPipeline", text_encoder=[None, None]),
        index(
            sd15,
            _class_name="OtherPipeline",
            unet=[None, None],
            transformer=["diffusers", "PixArtTransformer2DModel"],
        ),
        {"_class_name": "OtherPipeline"},
    ]
    for candidate in foreign:
        with pytest.raises(UserError, match=r"OtherPipeline.*supported family.*SDXL, FLUX"):
            family_of(candidate, "model")
    assert family_of(core, "model") == "sd"
    renamed = {k: v for k, v in core.items() if k != "vae"} | {"_class_name": "AnyName"}
    assert family_of(renamed, "model") == "pixel"


def test_weights_that_do_not_fit_their_configuration(broken: Path) -> None:
    config = broken / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    line = complaint(PriorConfig(name=str(broken)))
    assert str(broken) in line
    assert "could not be loaded" in line


def test_a_foreign_text_encoder() -> None:
    pipeline = SimpleNamespace(text_encoder=torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="reads text with a Linear"):
        check_text_encoders(pipeline, "sd", "model")


def test_an_inpainting_model_is_told_apart(tmp_path: Path) -> None:
    from tests.reference import tiny_models

    torch.manual_seed(0)
    pipeline = tiny_models._sd15()
    pipeline.register_modules(unet=tiny_models.unet(in_channels=9))
    pipeline.save_pretrained(tmp_path / "inpaint")
    line = complaint(PriorConfig(name=str(tmp_path / "inpaint")))
    assert "takes 9 channels where its VAE makes 4" in line
    assert "inpainting" in line


def test_damaged_missing_and_pickled_weights(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    line = complaint(PriorConfig(name=str(broken)))
    assert "truncated" in line
    weights.rename(weights.with_suffix(".bin"))
    assert "pickled weights aren't read" in complaint(PriorConfig(name=str(broken)))


def test_a_variant_that_is_not_there(sd15: Path) -> None:
    line = complaint(PriorConfig(name=str(sd15), variant="fp16"))
    assert '"fp16"' in line
    assert "leave the variant out" in line


def test_resolution_and_dtype(sd15: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "multiples of 8, got 60" in complaint(PriorConfig(name=str(sd15), resolution=60))
    assert "float16 is for GPUs" in complaint(PriorConfig(name=str(sd15), dtype="float16"))
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    options = PriorConfig(name="model")
    assert choose_dtype(options, "sd", cpu) == torch.float32
    assert choose_dtype(options, "sd", cuda) == torch.float16
    for units, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(loading, "computes_bf16", lambda _, units=units: units)
        assert choose_dtype(options, "flux", cuda) == expected


def test_a_scheduler_without_noise_levels() -> None:
    from diffusers import DDIMScheduler, EDMEulerScheduler

    with pytest.raises(UserError, match="EDMEulerScheduler"):
        diffusion_schedule(EDMEulerScheduler())
    schedule, kind = diffusion_schedule(DDIMScheduler(prediction_type="v_prediction"))
    assert kind == "v_prediction"
    torch.testing.assert_close(schedule.alpha**2 + schedule.sigma**2, torch.ones(1000))
    assert bool((schedule.sigma.diff() > 0).all())


def test_a_missing_library(sd15: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(missing: str) -> None:
        def fake(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == missing:
                raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", fake)

    without("huggingface_hub")
    line = complaint(PriorConfig(name="someone/model"))
    assert "huggingface_hub" in line
    assert "pip install" in line
    without("peft")
    line = complaint(PriorConfig(name=str(sd15), loras=["x"]))
    assert "peft" in line
    assert "pip install" in line


def test_loras_and_words_that_do_not_fit(sd15: Path, tmp_path: Path) -> None:
    def load(**changes: Any) -> str:
        return complaint(PriorConfig(name=str(sd15), resolution=RESOLUTION, **changes))

    assert "there is no file" in load(loras=[str(tmp_path / "no.safetensors")])
    assert "holds no safetensors" in load(loras=[str(tmp_path)])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"transformer.x.lora_A.weight": torch.zeros(2, 4)}, foreign)
    line = load(loras=[str(foreign)])
    assert "foreign.safetensors" in line
    assert "model" in line
    pickle = tmp_path / "learned.bin"
    pickle.write_bytes(b"")
    assert "no safetensors file" in load(textual_inversions=(str(pickle),))
    save_file({"<toy>": torch.zeros(1, 7)}, tmp_path / "wide.safetensors")
    assert "wide.safetensors" in load(textual_inversions=(str(tmp_path / "wide.safetensors"),))
    with pytest.raises(UserError, match="several"):
        weights_file(str(tmp_path), "LoRA")


def test_an_alias_is_not_a_folder_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd15").mkdir()
    asked = answer(monkeypatch, errors.LocalEntryNotFoundError("no"))
    with pytest.raises(UserError, match="local cache"):
        locate(PriorConfig(name="sd15"))
    assert asked == list(ALIASES["sd15"])


def test_truncation_note_counts_words() -> None:
    limit = (clip_tokenizer(), 6, "CLIP")  # two of them are the start and the end
    assert truncation_note("red chair photo mushroom", limit) is None
    note = truncation_note("red chair  photo mushroom red", limit)
    assert note is not None
    assert 'word 5, "red"' in note
    whole = truncation_note("zzzzzzzz chair", limit)
    assert whole is not None
    assert 'word 1, "zzzzzzzz"' in whole
    assert '"zzzzzzzz chair"' in whole


def test_out_of_memory_names_what_was_not_tried() -> None:
    options = PriorConfig(name="sdxl")
    cause = pytest.raises(UserError, match="sdxl ran out of the device's memory; try")
    with cause as caught, out_of_memory_advice(options):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert "offload model" in str(caught.value)
    assert "vram" in str(caught.value)
    tried = PriorConfig(name="sdxl", offload="group", vae_slicing=True, checkpoint_vae=True)
    with pytest.raises(UserError) as caught, out_of_memory_advice(tried):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert "offload" not in str(caught.value)
    assert "resolution" in str(caught.value)
    with pytest.raises(RuntimeError, match="other"), out_of_memory_advice(options):
        raise RuntimeError("other")


def test_vram_presets_follow_the_weights() -> None:
    def choose(vram: Any, denoiser: float, text: float = 1.0, card: float = 0, **kept: Any) -> Any:
        options = PriorConfig(name="model", vram=vram, **kept)
        return choose_memory(options, int(denoiser * GIB), int(text * GIB), int(card * GIB))

    assert choose("none", 100) == PriorConfig(name="model")
    assert choose("24", 5).offload == "none"
    assert not choose("24", 5).checkpoint_vae
    assert choose("12", 5).offload == "none"
    assert choose("12", 5).vae_slicing
    assert choose("8", 5).offload == "model"
    assert choose("8", 5).checkpoint_vae
    assert choose("24", 22).offload == "group"
    assert choose("auto", 22, card=80).offload == "none"
    assert choose("auto", 22, card=23.5).offload == "group"
    assert choose("12", 1, text=9.5).text_on_cpu is False
    assert choose("8", 1, text=9.5).text_on_cpu is True
    assert choose("24", 1, offload="group").offload == "group"


class Traveller(torch.nn.Linear):
    """A layer that notes where it is sent instead of going there."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.trips: list[str] = []

    def to(self, device: Any) -> Traveller:  # type: ignore[override]
        self.trips.append(str(device))
        self.weight = torch.nn.Parameter(torch.zeros(1, 1, device="meta" if device != CPU else CPU))
        return self


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("offload", "trips"),
    [("none", ["cuda"]), ("model", ["cuda", "cpu", "cuda", "cpu"]), ("group", [])],
)
def test_offloading_moves_the_model_there_and_back(offload: Any, trips: list[str]) -> None:
    module = Traveller()
    for _ in range(2):
        with pytest.raises(KeyError), resident(module, torch.device("cuda"), offload):
            raise KeyError  # an error inside does not leave the model on the device
        if offload == "none":
            break
    assert module.trips == trips


def test_weights_that_did_not_come_along_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "EMBEDDED", {"toybox-pixel": tmp_path / "weights"})
    with pytest.raises(UserError, match="no weights of toybox-pixel come with this version"):
        door.load(PriorConfig(name="toybox-pixel"))


def test_libraries_are_quiet(sd15: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError):
        load_prior(PriorConfig(name=str(sd15), resolution=60))
    assert "Loading" not in capfd.readouterr().err
    assert logging.getLogger("diffusers").level != logging.CRITICAL

"""A model folder is whole or refused, with the name of what is wrong; so is what is added to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from maquette.common.config.priors import PriorConfig
from maquette.common.config.reading import build_config
from maquette.common.errors import LONGEST, UserError
from maquette.common.guidance.choose import check_prompts
from maquette.common.priors.headers import check_lora, choose_variant, kind_of, read_header
from maquette.common.priors.loading import load_prior
from maquette.common.priors.pretrained import PretrainedPrior
from tests.reference.single_file import save_single_file
from tests.reference.tiny_models import Family, build

PROMPTS = ["a red chair", "a blue mushroom", ""]
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    families: tuple[Family, ...] = ("sd15", "sdxl", "if", "sd3", "flux")
    return {family: build(family, folder / family) for family in families}


@pytest.fixture
def copy(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a good model, to be damaged."""
    return lambda family: Path(shutil.copytree(models[family], tmp_path / f"my-{family}"))


def load(folder: Path, **changes: object) -> PretrainedPrior:
    return load_prior(PriorConfig(name=str(folder), **changes))  # type: ignore[arg-type]


def complaint(folder: Path, **changes: object) -> str:
    """The one line that loading, or embedding a prompt, ends with."""
    with pytest.raises(UserError) as caught:
        load(folder, **changes).encode_text(PROMPTS)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(str(folder), "model")


def edit(file: Path, change: Change) -> None:
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for i, (k, v) in enumerate(sorted(tensors.items())) if i % 2}


def prefixed(prefix: str) -> Change:
    return lambda tensors: {prefix + k: v for k, v in tensors.items()}


def with_nan(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = sorted(k for k in tensors if k.endswith("weight"))[0]
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] = float("nan")
    return tensors


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (TEXT, half, ["text_encoder", "lacks 18 of 36 tensors"]),
        (TEXT, prefixed("module."), ["text_encoder", "'module.' in front"]),
        (TEXT, with_nan, ["text_encoder", "NaN", "in 1 of 36"]),
        (UNET, lambda t: {k: v for k, v in t.items() if "conv_out" not in k}, ["conv_out", "2 of"]),
        (UNET, prefixed("_orig_mod."), ["unet", "'_orig_mod.' in front"]),
        (UNET, with_nan, ["unet", "NaN"]),
        (VAE, half, ["vae", "lacks"]),
        (VAE, prefixed("module."), ["vae", "'module.' in front"]),
        (VAE, with_nan, ["vae", "NaN"]),
    ],
)
def test_tensors_that_are_missing_renamed_or_not_finite_are_counted(
    copy: Callable[[str], Path], file: str, change: Change, words: list[str]
) -> None:
    folder = copy("sd15")
    edit(folder / file, change)
    line = complaint(folder)
    assert all(word in line for word in words), line


def test_tensors_beyond_the_model_are_told(copy: Callable[[str], Path]) -> None:
    folder = copy("sd15")
    before = load(folder).encode_text(PROMPTS).tensors["states"]
    edit(folder / TEXT, lambda t: {**t, "visual.weight": torch.ones(2)})
    prior = load(folder)
    assert torch.equal(prior.encode_text(PROMPTS).tensors["states"], before)
    assert any("visual.weight" in note and "1 tensors" in note for note in prior.notes)


@pytest.mark.parametrize(
    ("family", "tokenizer"),
    [
        *(
            ("sd15", "tokenizer"),
            ("sdxl", "tokenizer"),
            ("sdxl", "tokenizer_2"),
            ("if", "tokenizer"),
        ),
        *(("sd3", "tokenizer_2"), ("sd3", "tokenizer_3"), ("flux", "tokenizer_2")),
    ],
)
def test_a_tokenizer_without_its_vocabulary_is_refused(
    copy: Callable[[str], Path], family: str, tokenizer: str
) -> None:
    folder = copy(family)
    place = folder / tokenizer
    for file in place.glob("*"):
        if file.name != "tokenizer_config.json":
            file.unlink()
    line = complaint(folder)
    assert tokenizer in line
    assert "vocabulary" in line
    shutil.rmtree(place)
    assert f"lacks its {tokenizer}" in complaint(folder)


def test_a_tokenizer_that_makes_all_prompts_one_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("sd15")
    file = folder / "tokenizer" / "tokenizer.json"
    tree = json.loads(file.read_text())
    tree["model"]["vocab"] = {k: v for k, v in tree["model"]["vocab"].items() if k.startswith("<|")}
    tree["model"]["merges"] = []
    file.write_text(json.dumps(tree))
    assert "same tokens for every prompt" in complaint(folder)


def test_an_encoder_that_is_deaf_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("sd15")
    edit(
        folder / TEXT,
        lambda t: {k: torch.zeros_like(v) if "token_embedding" in k else v for k, v in t.items()},
    )
    assert "same for every prompt" in complaint(folder)


def test_truncated_is_called_truncated(copy: Callable[[str], Path]) -> None:
    folder = copy("sd15")
    file = folder / UNET
    whole = file.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        line = complaint(folder)
        assert "truncated" in line or size < 8, line
        assert "pickle" not in line
        assert UNET in line
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in complaint(folder)
    file.write_bytes(b"\xff" * 200)
    assert "damaged" in complaint(folder)


def test_what_a_folder_lacks_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("sd15")
    (folder / VAE).rename(folder / "kept")
    assert "vae lacks its weights" in complaint(folder)
    (folder / "kept").rename(folder / VAE)
    (folder / "unet" / "config.json").unlink()
    assert "unet lacks its config.json" in complaint(folder)
    shutil.rmtree(folder / "text_encoder")
    assert "lacks its text_encoder" in complaint(folder)


def test_the_variant_is_what_there_is(copy: Callable[[str], Path]) -> None:
    folder = copy("sd15")
    plain = load(folder).encode_text(PROMPTS).tensors["states"]
    for file in (UNET, VAE, TEXT):
        path = folder / file
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert torch.equal(load(folder).encode_text(PROMPTS).tensors["states"], plain)
    assert torch.equal(load(folder, variant="fp16").encode_text(PROMPTS).tensors["states"], plain)
    assert 'no files of variant "bf16"' in complaint(folder, variant="bf16")
    assert choose_variant(["model.safetensors", "model.fp16.safetensors"], None) is None
    assert choose_variant(["m.fp16-00001-of-00002.safetensors"], None) == "fp16"
    assert choose_variant(["m.fp16.safetensors", "m.bf16.safetensors"], None) is None


def test_a_class_that_is_none_is_told(copy: Callable[[str], Path]) -> None:
    folder = copy("sd15")
    index = json.loads((folder / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderFromTheFuture"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "update it" in complaint(folder)
    index["vae"] = ["os", "system"]  # only the two libraries' classes are ever looked up
    (folder / "model_index.json").write_text(json.dumps(index))
    complaint(folder)


# Single files


def test_a_single_file_is_the_model_it_was_made_of(models: dict[str, Path], tmp_path: Path) -> None:
    file = save_single_file(models["sd15"], tmp_path / "model.safetensors")
    one, many = load(file, config=str(models["sd15"])), load(models["sd15"])
    for name in ("unet", "vae", "text_encoder"):
        mine, theirs = (getattr(p.pipeline, name).state_dict() for p in (one, many))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name
    told = [p.encode_text(PROMPTS).tensors["states"] for p in (one, many)]
    assert torch.equal(*told)
    assert one.family == many.family == "sd"


def test_a_single_file_is_whole_or_refused(models: dict[str, Path], tmp_path: Path) -> None:
    file = save_single_file(models["sd15"], tmp_path / "model.safetensors")
    assert "prior.config=" in complaint(file)  # offline, and nobody said which
    assert "family sdxl" in complaint(file, config=str(models["sdxl"]))
    edit(file, with_nan)
    assert "NaN" in complaint(file, config=str(models["sd15"]))
    save_single_file(models["sd15"], file)
    edit(file, lambda t: {k: v for k, v in t.items() if "middle_block.0" not in k})
    assert "lacks tensors" in complaint(file, config=str(models["sd15"]))


# LoRAs


def lora(path: Path, layers: list[str], rank: int = 2, width: int = 8, value: float = 0.1) -> Path:
    tensors = {}
    for layer in layers:
        tensors[f"{layer}.lora_A.weight"] = torch.full((rank, width), value)
        tensors[f"{layer}.lora_B.weight"] = torch.full((width, rank), value)
    save_file(tensors, path)
    return path


GOOD = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def test_a_lora_that_fits_in_part_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    whole = lora(tmp_path / "whole.safetensors", [GOOD])
    assert load(models["sd15"], loras=[str(whole)]).notes == []
    part = lora(tmp_path / "part.safetensors", [GOOD, GOOD.replace("blocks.0", "blocks.7")])
    prior = load(models["sd15"], loras=[str(part)])
    assert any("fits 1 of its 2 layers" in note for note in prior.notes)
    broken = lora(tmp_path / "broken.safetensors", [GOOD], value=float("inf"))
    assert "NaN or infinite values in 2 of 2" in complaint(models["sd15"], loras=[str(broken)])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unet.x.hada_w1_a", "LoHa"),
        ("unet.x.lokr_w1", "LoKr"),
        ("unet.x.dora_scale", "DoRA"),
        ("model.diffusion_model.input_blocks.0.0.weight", "whole model"),
        ("first_stage_model.encoder.conv_in.weight", "VAE"),
        ("emb_params", "textual inversion"),
        ("something.else.entirely.weight.of.three", "known"),
    ],
)
def test_what_is_no_lora_is_told_by_its_kind(tmp_path: Path, name: str, words: str) -> None:
    file = tmp_path / "x.safetensors"
    save_file({name: torch.ones(1, 1, 1) if "else" in name else torch.ones(1, 2)}, file)
    with pytest.raises(UserError, match=words):
        check_lora(file)


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf", "1e999"])
def test_a_weight_that_is_no_number_is_refused(weight: str) -> None:
    with pytest.raises(UserError, match="must be finite"):
        build_config("a red cat", None, [f"coarse.prior.loras=x.safetensors:{weight}"])


def test_what_is_missing_for_a_lora_is_told_before_the_run(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    whole = lora(tmp_path / "whole.safetensors", [GOOD])
    pairs = [
        *(f"{stage}.prior.name={models['sd15']}" for stage in ("coarse", "fine")),
        f"fine.prior.loras={whole}",
    ]
    config = build_config("a red chair", "magic3d-sd15", pairs)
    check_prompts(config)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "peft" else real(name, *a)
    )
    with pytest.raises(UserError, match="peft"):
        check_prompts(config)


# Learned words


def test_a_learned_word_is_all_its_vectors_in_any_case(
    models: dict[str, Path], tmp_path: Path
) -> None:
    vectors = torch.randn(3, 32)
    file = tmp_path / "word.safetensors"
    save_file({"<Cat-Toy>": vectors}, file)
    prior = load(models["sd15"], textual_inversions=[str(file)])
    tokenizer, encoder = prior.pipeline.tokenizer, prior.pipeline.text_encoder
    tokens = [tokenizer.convert_tokens_to_ids(t) for t in prior.words["<Cat-Toy>"].split()]
    assert len(set(tokens)) == 3
    torch.testing.assert_close(encoder.get_input_embeddings().weight[tokens], vectors)
    (text,), _ = prior._put(["a <Cat-Toy> here"])
    assert [t for t in tokenizer(text).input_ids if t in tokens] == tokens
    told = prior.encode_text(["a <Cat-Toy>", "a <cat-toy>", "a toy"]).tensors["states"]
    assert torch.equal(told[0], told[1])
    assert not torch.equal(told[0], told[2])


def test_a_word_for_another_encoder_is_refused_both_ways(
    models: dict[str, Path], tmp_path: Path
) -> None:
    one, two, wide = (tmp_path / f"{n}.safetensors" for n in ("one", "two", "wide"))
    save_file({"<toy>": torch.ones(1, 32)}, one)
    save_file({"clip_l": torch.ones(1, 32), "clip_g": torch.ones(1, 32)}, two)
    save_file({"<toy>": torch.ones(1, 48)}, wide)
    assert "made for 1 CLIP text encoder" in complaint(
        models["sdxl"], textual_inversions=[str(one)]
    )
    assert "made for 2 CLIP text encoders" in complaint(
        models["sd15"], textual_inversions=[str(two)]
    )
    assert "width 48" in complaint(models["sd15"], textual_inversions=[str(wide)])
    assert "does not take" in complaint(models["if"], textual_inversions=[str(one)])


def test_a_prompt_is_cut_after_its_words_have_grown(
    models: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "long.safetensors"
    save_file({"<long>": torch.randn(74, 32)}, file)
    prior = load(models["sd15"], textual_inversions=[str(file)])
    prior.encode_text(["a red <long>"])
    assert prior.truncation_notes
    plain = load(models["sd15"])
    plain.encode_text(["a red chair"])
    assert plain.truncation_notes == []


# Headers


def test_kinds_of_files() -> None:
    def kind(*names: str) -> str | None:
        from maquette.common.priors.headers import Tensor as Entry

        return kind_of({name: Entry("F32", (4, 4, 3)) for name in names})

    assert kind("unet.a.lora_A.weight", "unet.a.lora_B.weight") == "lora"
    assert kind("lora_unet_a.lora_down.weight", "lora_unet_a.alpha") == "lora"
    assert kind("lora_unet_a.hada_w1_a") == "loha"
    assert kind("model.diffusion_model.x.weight", "first_stage_model.y") == "checkpoint"
    assert kind("encoder.conv_in.weight", "decoder.conv_in.weight") == "vae"
    assert kind("down_blocks.0.x") == "diffusers"
    assert kind("a.b.c") is None


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": 3},
        [],
        3,
    ],
)
def test_headers_that_cannot_be_are_refused(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(UserError, match="damaged"):
        read_header(file)


def test_a_header_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for length in (2**63, 2**40, 10**9, 1):
        file.write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(UserError, match=r"damaged|truncated") as caught:
            read_header(file)
        assert len(str(caught.value)) < LONGEST
    save_file({"a": torch.ones(2, 3)}, file)
    assert read_header(file)["a"].shape == (2, 3)

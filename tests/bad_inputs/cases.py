"""What people get wrong, by kind: the arguments, the folder they stand in, and what the line says.

A world is a function that fills the folder in which the command is given; a case names its own.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from maquette.common.config.fields import HashGridConfig
from maquette.common.config.reading import build_config
from maquette.common.fields.field import HashField
from maquette.common.runs.checkpoints import write_checkpoint
from maquette.common.runs.coarse_result import CoarseResult, write_result
from maquette.common.runs.folder import Run, open_or_create
from maquette.fine.first_shape import FirstShape, write_first

PROMPT = "a red mushroom"
ON_RUNS = ("fine", "export", "resume", "evaluate")
World = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """arguments: of the command line. words: parts of the line. world: fills the folder before."""

    arguments: tuple[str, ...]
    words: tuple[str, ...] = ()
    world: World | None = None

    @property
    def name(self) -> str:
        """For the test's report."""
        told = " ".join(a if len(a) < 40 else a[:20] + "~" for a in self.arguments)
        world = f" in {self.world.__name__}" if self.world else ""
        return ascii(told + world).strip("'\"")[:100]


def all_cases() -> list[Case]:
    """Every case, those of one kind together."""
    makers = (
        prompts,
        settings,
        options,
        files,
        priors,
        run_folders,
        damaged_runs,
        limits,
        training,
        words,
        homes,
    )
    return [case for maker in makers for case in maker()]


# Worlds


def begun(folder: Path) -> Run:
    """A run `mine` of which no step is done."""
    pairs = ["coarse.steps=4", "fine.steps=4", "coarse.prior=exact", "fine.prior=exact"]
    config = build_config(PROMPT, None, pairs, device="cpu")
    return open_or_create(config, str(folder / "mine"))


def with_coarse(folder: Path) -> Run:
    """A run `mine` whose coarse stage looks finished."""
    run, color = begun(folder), _color()
    run.coarse.mkdir()
    write_checkpoint(run.coarse, 4, {"x": torch.ones(1)})
    result = CoarseResult(
        inside=torch.zeros(3, 3, 3),
        images=torch.zeros(16, 4, 4, 3, dtype=torch.uint8),
        opacity=torch.zeros(16, 4, 4),
        background=torch.zeros(3),
        color=color,
    )
    write_result(run, result)
    return run


def with_fine(folder: Path) -> Run:
    """A run `mine` whose fine stage has checkpoints, of which each lacks everything it should."""
    run = with_coarse(folder)
    run.fine.mkdir()
    write_first(run.fine, FirstShape(torch.ones(65**3), _color(), torch.zeros(3)))
    for step in (2, 4):
        write_checkpoint(run.fine, step, {"x": torch.ones(1)})
    return run


def _color() -> HashField:
    shape = HashGridConfig(levels=2, log2_entries=8, base_resolution=4, finest_resolution=8)
    return HashField(shape, 8, 3)


def _written(name: str, content: str | bytes) -> World:
    """A world with one file."""

    def world(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    world.__name__ = name
    return world


def _pipe(name: str) -> World:
    def world(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)

    world.__name__ = f"pipe {name}"
    return world


def _changed(name: str, change: Callable[[Path], object], below: World = begun) -> World:
    """A run `mine` in which one file is changed."""

    def world(folder: Path) -> None:
        below(folder)
        change(folder / "mine" / name)

    world.__name__ = f"{below.__name__} {name}"
    return world


def _to_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _to_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _to(content: bytes) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        path.write_bytes(content)

    return change


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _line(old: str, new: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


# Kinds


def prompts() -> Iterator[Case]:
    """Prompts that are none, or none of the toybox."""
    for command in ("run", "coarse"):
        for prompt, told in (
            ("", "prompt is empty"),
            ("   ", "prompt is empty"),
            ("\n\t", "prompt is empty"),
            (",,,", "empty"),
            ("a red mushrom", "did you mean mushroom"),
            ("a dragon", "--prior sd15"),
            ("a photo of an astronaut riding a horse", "default prior"),
            ("mushroom", "colour"),
            ("a red", "colour"),
            ("a red and red cat", "differ"),
            ("a striped dotted red cat", "can't read"),
            ("a red mushroom and a blue car", "'car'"),
            ("x" * 100_000, "doesn't know"),
            ("word " * 20_000, "doesn't know"),
            ("красный гриб", "doesn't know"),
            ("蘑菇", "doesn't know"),
            ("🍄", "doesn't know"),
            ("a red \x1b[31mmushroom", "doesn't know"),
            ("a red mushroom \udcff", "UTF-8"),
            ("a red mush\x00room", "doesn't know"),
            ("../../etc/passwd", "doesn't know"),
            ("$(touch here); `touch here`", "doesn't know"),
            ("{prompt}", "doesn't know"),
            ("%s%n", "doesn't know"),
        ):
            told = "" if prompt == "a red mushroom and a blue car" else told
            yield Case((command, prompt), (told,))
    yield Case(("run", PROMPT, "--set", "fine.prompt=a red dragon"), ("'dragon'",))


def settings() -> Iterator[Case]:
    """`--set` with names and values that can't be."""
    for pair, told in (
        ("coarse.stesp=3", "did you mean steps"),
        ("caorse.steps=3", "did you mean coarse"),
        ("steps=3", "coarse.steps"),
        ("coarse.steps", "key=value"),
        ("=3", "key=value"),
        ("", "key=value"),
        ("coarse.steps=", "no value"),
        ("coarse.steps=# 3", "comment"),
        ("coarse.steps=soon", "integer"),
        ("coarse.steps=0", "coarse.steps"),
        ("coarse.steps=-3", "coarse.steps"),
        ("coarse.steps=3.5", "coarse.steps"),
        ("coarse.steps=1e999", "coarse.steps"),
        ("coarse.steps=999999999999", "coarse.steps"),
        ("coarse.steps=" + "9" * 50_000, "coarse.steps"),
        ("coarse.steps=yes", "steps"),
        ("coarse.steps=null", "coarse.steps"),
        ("coarse.steps=[1, 2]", "coarse.steps"),
        ("coarse.steps={a: 1}", "coarse.steps"),
        ("coarse.steps.x=3", "coarse.steps"),
        ("coarse.samples=1000000000", "8192"),
        ("coarse.samples=1e9", "coarse.samples"),
        ("coarse.views=100000", "coarse.views"),
        ("coarse.resolution=100000", "coarse.resolution"),
        ("fine.resolution=1", "fine.resolution"),
        ("fine.resolution=1000000", "fine.resolution"),
        ("handoff.resolution=100000", "handoff.resolution"),
        ("handoff.views=1000000", "handoff.views"),
        ("coarse.field.hidden=1000000000", "coarse.field.hidden"),
        ("coarse.field.grid.levels=99", "levels"),
        ("coarse.field.grid.log2_entries=99", "log2_entries"),
        ("coarse.field.grid.base_resolution=999", "finest_resolution"),
        ("fine.texture.extra_levels=17", "extra_levels"),
        ("coarse.losses.opacity=[]", "coarse.losses.opacity"),
        ("coarse.losses.opacity=[[0, 1], [0, 2]]", "growing"),
        ("coarse.losses.opacity=nan", "coarse.losses.opacity"),
        ("coarse.losses.opacity=.inf", "coarse.losses.opacity"),
        ("coarse.optimizer.learning_rate=-1", "learning_rate"),
        ("coarse.optimizer.learning_rate=.nan", "learning_rate"),
        ("coarse.optimizer.betas=[1, 2]", "betas"),
        ("coarse.optimizer.betas=[0.9]", "betas"),
        ("coarse.camera.fovy=[50, 30]", "fovy"),
        ("coarse.camera.fovy=[0, 30]", "fovy"),
        ("coarse.camera.elevation=[-100, 0]", "elevation"),
        ("coarse.camera.distance=[0, 1]", "distance"),
        ("coarse.light.shares=[1, 1, 1]", "sum to 1"),
        ("coarse.background.color=[2, 0, 0]", "color"),
        ("coarse.background.kind=sky", "'sky'"),
        ("coarse.distillation.loss=magic", "sds"),
        ("coarse.distillation=magic", "coarse.distillation"),
        ("coarse.text.front_angle=170", "front_angle"),
        ("coarse.text.phrases={top: above}", "coarse.text.phrases"),
        ("coarse.judges={prior: 0}", "coarse.judges"),
        ("coarse=3", "coarse"),
        ("coarse.camera=null", "coarse.camera"),
        ("fine.prompt=", "empty"),
        ("fine.prompt=yes", "'yes'"),
        ("fine.prompt=1.0", "'1.0'"),
        ("fine.prompt=a red # cat", "'#'"),
        ("prompt=a blue cat", "argument"),
        ("seed=-1", "seed"),
        ("seed=99999999999999999999", "seed"),
        ("seed=null", "seed"),
        ("device=abacus", "abacus"),
        ("export.faces=1", "export.faces"),
        ("export.faces=999999999999", "export.faces"),
        ("export.texture_size=3", "export.texture_size"),
        ("export.unwrap_limit=-1", "unwrap_limit"),
        ("a" * 100_000 + "=3", "unknown setting"),
        ("a." * 1000 + "b=3", "unknown setting"),
        ("coarse.st\neps=3", "unknown setting"),
        ("coarse.st\x1b[31meps=3", "unknown setting"),
        ("coarse.steps=&a [*a]", "coarse.steps"),
        ("coarse.steps=" + "[" * 5000, "coarse.steps"),
        ("coarse.steps=!!python/object/apply:os.system [ls]", "coarse.steps"),
        ("coarse.prior.name=", "name"),
        ("coarse.prior.vram=7", "vram"),
        ("coarse.prior.dtype=int8", "dtype"),
        ("coarse.prior.instances=1000000000", "instances"),
    ):
        yield Case(("run", PROMPT, "--set", pair), (told,))


def options() -> Iterator[Case]:
    """Options with values that can't be."""
    for option, value, told in (
        ("--seed", "-1", "seed"),
        ("--seed", "1" * 400, "seed"),
        ("--device", "", "device"),
        ("--device", "abacus", "abacus"),
        ("--device", "cuda:99", "cuda:99"),
        ("--device", "meta", "meta"),
        ("--device", "cpu:7", "cpu:7"),
        ("--vram", "7", "vram"),
        ("--vram", "", "vram"),
        ("--out", "", "--out"),
        ("--out", "  ", "--out"),
        ("--out", "x" * 3000, "cannot write"),
        ("--out", "~nobody-has-this-name/x", "home"),
        ("--threads", "0", "--threads"),
        ("--threads", "-2", "--threads"),
        ("--threads", "100000", "--threads"),
    ):
        yield Case(("run", PROMPT, option, value), (told,))
        yield Case(("coarse", PROMPT, option, value), (told,))
    yield Case(("run", PROMPT, "--out", "file"), ("cannot write",), _written("file", "mine"))
    yield Case(("run", PROMPT, "--out", "file/run"), ("cannot write",), _written("file", "mine"))
    yield Case(("run", PROMPT, "--out", "full"), ("not empty",), _written("full/letter", "dear"))
    yield Case(("run", PROMPT, "--out", "mine"), ("other settings",), begun)


def files() -> Iterator[Case]:
    """`--config` files that are none, or none of ours."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for content, told in (
        ("coarse: [", "not valid YAML"),
        ("coarse: {steps: 3", "not valid YAML"),
        ("\tcoarse: 3", "not valid YAML"),
        ("- a\n- b\n", "mapping"),
        ("just a text", "mapping"),
        ("3", "mapping"),
        ("colour: red", "unknown setting"),
        ("coarse: {stesp: 3}", "did you mean steps"),
        ("coarse: {steps: many}", "coarse.steps"),
        ("coarse: 3", "coarse"),
        ("coarse: {steps: yes}", "steps"),
        ('fine: {prompt: ""}', "fine.prompt"),
        ('coarse: {prior: "a\\0b"}', "neither"),
        ("[" * 20_000, "mine.yaml"),
        ("{a: " * 5_000, "mine.yaml"),
        ("a: " + "{b: " * 100 + "1" + "}" * 100, "nested"),
        (bomb, "alias"),
        ("a: &a [*a]", "alias"),
        ("base: mine.yaml", "builds on itself"),
        ("base: ./mine.yaml", "builds on itself"),
        ("base: x/../mine.yaml", "mine.yaml"),
        ("base: nowhere", "nowhere"),
        ("base: [toybox]", "base"),
        ("base: " + "x" * 5000, "too long"),
        ('base: "a\\0b"', "no configuration"),
        ("!!python/object/apply:os.system [touch here]", "not valid YAML"),
        ("? [a, b]\n: 3", "mine.yaml"),
        ("1: 2", ""),
        ("null: 2", ""),
        (b"\xff\xfe\x00\x01", "not a text file"),
        (b"\x00" * 100, "mine.yaml"),
        ("a: 1\n" * 400_000, "larger"),
        ("x" * 200_000, "mapping"),
    ):
        world = _written("mine.yaml", content)
        yield Case(("run", PROMPT, "--config", "mine.yaml"), (told,), world)
    for name, told in (
        ("", "no configuration"),
        ("nowhere", "toybox"),
        ("nowhere.yaml", "toybox"),
        (".", "can't be read"),
        ("/", "can't be read"),
        ("/dev/zero", "no plain file"),
        ("/dev/null/x", "no configuration"),
        ("c" * 5000, "no configuration"),
        ("../configs/toybox", "no configuration"),
        ("a/../../toybox", "no configuration"),
    ):
        yield Case(
            ("run", PROMPT, "--config", name), (told,) if name != "c" * 5000 else ("config",)
        )
    yield Case(("run", PROMPT, "--config", "pipe"), ("no plain file",), _pipe("pipe"))


def priors() -> Iterator[Case]:
    """Priors, LoRAs and learned words that aren't there or aren't any."""
    index = {"_class_name": "X", "unet": ["diffusers", "UNet2DConditionModel"]}
    for name, told in (
        ("", "name"),
        ("exactt", "exact"),
        ("sd-15", "sd15"),
        ("nowhere/", "nowhere"),
        ("./nowhere", "no folder"),
        ("/nowhere/at/all", "no folder"),
        ("~nobody-has-this-name/x", "prior"),
        ("a b c", "neither"),
        ("p" * 5000, "File name too long"),
        ("/" + "p" * 5000, "File name too long"),
        ("someone/model", "HF_HUB_OFFLINE"),
        ("https://example.com/model", "no folder"),
        ("../model", "no folder"),
    ):
        yield Case(("run", PROMPT, "--prior", name), (told,))
    for place, content, told in (
        ("model/readme", "x", "model_index.json"),
        ("model/model_index.json", "{", "damaged"),
        ("model/model_index.json", "[]", "no object"),
        ("model/model_index.json", "[" * 100_000, "damaged"),
        ("model/model_index.json", b"\xff\xff", "damaged"),
        ("model/model_index.json", "{}", "cannot be a prior"),
        ("model/model_index.json", json.dumps(index), "cannot be a prior"),
        ("model/config.json", "{}", "component"),
        ("model/my_lora.safetensors", "x", "LoRA"),
    ):
        yield Case(("run", PROMPT, "--prior", "./model"), (told,), _written(place, content))
    yield Case(
        ("run", PROMPT, "--prior", "./model"),
        ("model_index.json",),
        _pipe("model/model_index.json"),
    )
    for name, content, told in (
        ("model.ckpt", "x", "pickled"),
        ("model.safetensors", "x", "damaged"),
        ("model.safetensors", _header("a.lora_A.weight", 2, 2), "LoRA"),
        ("model.safetensors", _header("first_stage_model.x", 2, 2), "VAE"),
        ("model.safetensors", _header("control_model.x", 2, 2), "ControlNet"),
        ("model.safetensors", _header("a.hada_w1_a", 2, 2), "LoHa"),
        ("model.safetensors", _header("down_blocks.0.x", 2, 2), "component"),
        ("model.safetensors", _header("x.y", 2, 2, 2), "no model that is known"),
        ("model.safetensors", _header(f"{_UNET}0.0.weight", 4, 9, 3, 3), "inpainting"),
        ("model.safetensors", _header(f"{_UNET}0.0.weight", 4, 8, 3, 3), "editing"),
    ):
        yield Case(("run", PROMPT, "--prior", f"./{name}"), (told,), _written(name, content))
    for option, value, told in (
        ("--lora", "", "LoRA"),
        ("--lora", "nowhere", "no file"),
        ("--lora", "nowhere:0.5", "no file"),
        ("--lora", ".", "no safetensors file"),
        ("--lora", "x" * 5000, "LoRA"),
        ("--lora", "file.bin", "pickles"),
        ("--lora", "file.safetensors:nan", "weight"),
        ("--lora", "file.safetensors:inf", "weight"),
        ("--lora", "file.safetensors", "damaged"),
    ):
        world = _written("file.safetensors", "x") if "safe" in value else _written("file.bin", "x")
        yield Case(("run", PROMPT, option, value), (told,), world)
    for value, told in (("nowhere", "no file"), ("x.bin", "pickles"), (".", "several")):
        pair = f"coarse.prior.textual_inversions={value}"

        def world(folder: Path) -> None:
            for name in ("x.bin", "a.safetensors", "b.safetensors"):
                (folder / name).touch()

        yield Case(("run", PROMPT, "--set", pair), (told,), world)


_UNET = "model.diffusion_model.input_blocks."


def _header(name: str, *shape: int) -> bytes:
    """A safetensors file of one tensor of zeros."""
    size = 4 * math.prod(shape)
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def run_folders() -> Iterator[Case]:
    """What isn't a run's folder."""
    for command in ON_RUNS:
        for name in ("", " ", "nowhere", ".", "/", "x" * 3000, "a\nb", "a\x00b", "../..", "~no/x"):
            yield Case(
                (command, name), ("run",) if name.strip() else ("RUN",) if "\0" not in name else ()
            )
        yield Case((command, "file"), ("run",), _written("file", "x"))
        yield Case((command, "pipe"), ("run",), _pipe("pipe"))
        yield Case((command, "empty"), ("config.yaml",), _written("empty/letter", "x"))
        yield Case((command, "/dev/null"), ("run",))
        yield Case((command,), ("missing argument",))


def damaged_runs() -> Iterator[Case]:
    """Runs that something happened to."""
    for command in ON_RUNS:
        for change, told in (
            (_to(b""), "damaged"),
            (_to(b"format: ["), "damaged"),
            (_to(b"\xff\xfe"), "damaged"),
            (_to(b"- a"), "damaged"),
            (_to(b"format: 7\n"), "later version"),
            (_to(b"format: 1\n"), "earlier version"),
            (_to(b"format: soon\n"), "version"),
            (_to(b"format: 2\nprompt: a red mushroom\ncolour: red\n"), "colour"),
            (_to(b"format: 2\nprompt: a red mushroom\n"), "complete"),
            (_to(b"[" * 50_000), "damaged"),
            (_line("steps: 4", "steps: many"), "coarse.steps"),
            (_line("steps: 4", "steps: 0"), "coarse.steps"),
            (_line("seed: 0", "seed: -3"), "seed"),
            (_half, "damaged"),
            (_to_pipe, "config.yaml"),
            (_to_folder, "config.yaml"),
        ):
            yield Case((command, "mine"), (told,), _changed("config.yaml", change))
    for command in ("fine", "export", "evaluate"):
        yield Case((command, "mine"), ("maquette resume mine",), begun)
    result, last = "coarse/result.safetensors", "fine/step-000004.safetensors"
    yield Case(("fine", "mine"), ("damaged",), _changed(result, _half, with_coarse))
    yield Case(("fine", "mine"), ("damaged",), _changed(result, _to(b""), with_coarse))
    yield Case(("fine", "mine"), ("damaged",), _changed(result, _to(b"\xff" * 99), with_coarse))
    yield Case(("export", "mine"), ("fit the settings",), with_fine)
    yield Case(("evaluate", "mine"), ("fit the settings",), with_fine)
    for command in ("export", "evaluate"):
        early = _changed(last, Path.unlink, with_fine)
        yield Case((command, "mine"), ("step 2 of 4",), early)
        for change in (_half, _to(b""), _to(b"\xff" * 99), _to_folder):
            world = _changed(last, change, with_fine)
            yield Case((command, "mine"), ("step-000004.safetensors",), world)
    for pair in ("coarse.steps=9", "seed=4", "handoff.resolution=64", "coarse.camera.fovy=[1, 2]"):
        yield Case(("fine", "mine", "--set", pair), ("keeps the coarse stage",), with_coarse)
    for arguments, told in (
        (("--prompt", ""), "prompt is empty"),
        (("--prompt", "a blue mushrom"), "'mushrom'"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--set", "fine.stesp=3"), "fine.stesp"),
        (("--prior", "exactt"), "exactt"),
        (("--out", ""), "--out"),
    ):
        yield Case(("fine", "mine", *arguments), (told,), with_coarse)


def limits() -> Iterator[Case]:
    """Numbers of an export, and files of scores."""
    for option, values in (
        ("--faces", ("0", "1", "-5", "999999999999", "many", "1.5", "")),
        ("--texture-size", ("0", "7", "-5", "99999", "big", "1e3", "")),
        ("--threads", ("0", "-1", "x")),
    ):
        for value in values:
            yield Case(("export", "mine", option, value), (), begun)
    for file in ("nowhere/scores.json", "mine", ".", "", "x" * 3000, "mine/config.yaml", "mine/x"):
        yield Case(("evaluate", "mine", "--json", file), ("--json",), begun)
    yield Case(
        ("evaluate", "mine", "--json", "pipe"),
        (),
        lambda folder: (begun(folder), _pipe("pipe")(folder)),
    )


def training() -> Iterator[Case]:
    """`train-prior` with what can't be trained."""
    for arguments, told in (
        ((), "missing argument"),
        (("dog",), "pixel, vae, latent"),
        (("",), "kind"),
        (("pixel",), "budget"),
        (("pixel", "--minutes", "0"), "minutes"),
        (("pixel", "--minutes", "-1"), "minutes"),
        (("pixel", "--minutes", "nan"), "minutes"),
        (("pixel", "--minutes", "inf"), "minutes"),
        (("pixel", "--minutes", "soon"), "--minutes"),
        (("pixel", "--images", "0"), "images"),
        (("pixel", "--images", "1.5"), "--images"),
        (("pixel", "--images", "9", "--minutes", "1"), "budget"),
        (("pixel", "--images", "9", "--seed", "-1"), "seed"),
        (("pixel", "--images", "9", "--seed", "9" * 30), "seed"),
        (("pixel", "--images", "9", "--device", "abacus"), "abacus"),
        (("pixel", "--images", "9", "--out", ""), "--out"),
        (("pixel", "--images", "9", "--out", "file"), "file"),
        (("pixel", "--images", "9", "--out", "file/x"), "file"),
        (("pixel", "--images", "9", "--out", "x" * 3000), "too long"),
        (("pixel", "--images", "9", "--vae", "x"), "--vae"),
        (("vae", "--images", "9", "--begin", "x"), "--begin"),
        (("pixel", "--images", "9", "--begin", "nowhere"), "--begin"),
        (("latent", "--images", "9"), "autoencoder"),
        (("latent", "--images", "9", "--vae", "nowhere"), "--vae"),
        (("latent", "--images", "9", "--vae", ""), "--vae"),
        (("pixel", "--images", "9", "--set", "batch=1"), "batch"),
        (("pixel", "--images", "9", "--set", "rate=fast"), "rate"),
        (("pixel", "--images", "9", "--set", "colour=3"), "colour"),
        (("pixel", "--images", "9", "--set", "widths=[3]"), "widths"),
        (("pixel", "--images", "9", "--set", "fovy=[50, 20]"), "fovy"),
        (("pixel", "--images", "9", "--threads", "0"), "--threads"),
    ):
        yield Case(("train-prior", *arguments), (told,), _written("file", "mine"))
    yield Case(("train-prior", "pixel", "--images", "9", "--out", "mine"), ("run",), begun)
    yield Case(
        ("train-prior", "pixel", "--images", "9", "--out", "mine"),
        ("can't be read",),
        _written("mine/training.json", "{"),
    )


def homes() -> Iterator[Case]:
    """Home folders of nobody, wherever a path is taken."""
    place = "~nobody-has-this-name/x"
    for arguments in (
        ("run", "--image", place),
        ("coarse", PROMPT, "--image", place),
        ("run", PROMPT, "--prior", "sd15", "--lora", place),
        ("run", PROMPT, "--set", "coarse.judges.clip=1", "--set", f"coarse.clip.model={place}"),
        ("run", PROMPT, "--seeds", "2", "--clip", place),
        ("fine", "--mesh", place, PROMPT),
        ("texture", "--mesh", place, PROMPT),
        ("train-prior", "pixel", "--minutes", "1", "--out", place),
        ("train-prior", "latent", "--minutes", "1", "--vae", place),
        ("train-prior", "pixel", "--minutes", "1", "--begin", place),
        ("invert", place),
        ("invert", "photo.png", "--out", place),
    ):
        yield Case(arguments, ("no such home folder",))
    yield Case(("run", PROMPT, "--seeds", "2", "--clip", "nowhere"), ("clip.model",))


def words() -> Iterator[Case]:
    """Commands and options that there aren't."""
    for arguments in (
        ("paint",),
        ("Run", PROMPT),
        ("run", PROMPT, "another"),
        ("run", PROMPT, "--seedd", "3"),
        ("run", PROMPT, "--seed"),
        ("run", PROMPT, "--seed", "three"),
        ("run", PROMPT, "-x"),
        ("run", "--", "-x", "y"),
        ("--paint",),
        ("doctor", "now"),
        ("doctor", "--fast"),
        ("export", "mine", "--json", "x"),
        ("x" * 10_000,),
        ("run", PROMPT, "--" + "x" * 10_000),
        ("resume", "a", "b"),
    ):
        yield Case(arguments, ("--help",))
    yield Case(("run",), ("the prompt is empty", "--image"))

"""The command line: every mistake ends in one line and exit code 2, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maquette import pipeline
from maquette.common.config.fields import HashGridConfig
from maquette.common.config.reading import build_config
from maquette.common.fields.field import HashField
from maquette.common.files import sole_writer
from maquette.common.runs.checkpoints import checkpoint_path, write_checkpoint
from maquette.common.runs.coarse_result import RESULT, CoarseResult, write_result
from maquette.common.runs.doctor import report
from maquette.common.runs.folder import Run, open_or_create
from maquette.fine.first_shape import FirstShape, write_first

ROOT = Path(pipeline.__file__).parent
PROMPT = "a red mushroom"
EXACT = ("coarse.prior=exact", "fine.prior=exact")
Mistake = Callable[..., str]


@pytest.fixture
def mistake(monkeypatch, capfd, tmp_path: Path) -> Mistake:
    """Runs the command in an empty folder; returns the one line it says about a mistake."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["maquette", *arguments])
        with pytest.raises(SystemExit) as ended:
            pipeline.main()
        told = capfd.readouterr()
        assert ended.value.code == 2, told.err
        assert told.out == ""
        lines = told.err.splitlines()
        assert len(lines) == 1, told.err
        assert lines[0].startswith("error: ")
        return lines[0]

    monkeypatch.chdir(tmp_path)
    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
    )


COLOR = HashField(
    HashGridConfig(levels=2, log2_entries=8, base_resolution=4, finest_resolution=8), 8, 3
)


def begun(folder: Path, *pairs: str) -> Run:
    """A run of which no step is done yet."""
    config = build_config(
        PROMPT, None, ["coarse.steps=4", "fine.steps=4", *EXACT, *pairs], device="cpu"
    )
    return open_or_create(config, str(folder))


def with_coarse_stage(folder: Path) -> Run:
    """A run whose coarse stage looks finished: its result is there, of nothing in particular."""
    run = begun(folder)
    run.coarse.mkdir()
    write_checkpoint(run.coarse, 4, {"x": torch.ones(1)})
    write_result(
        run,
        CoarseResult(
            inside=torch.zeros(3, 3, 3),
            images=torch.zeros(16, 4, 4, 3, dtype=torch.uint8),
            opacity=torch.zeros(16, 4, 4),
            background=torch.zeros(3),
            color=COLOR,
        ),
    )
    return run


@pytest.mark.parametrize("command", ["run", "coarse"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], ["prompt is empty"]),
        (["   "], ["prompt is empty"]),
        (["a red mushrom"], ["'mushrom'", "mushroom", "default prior", "--prior sd15"]),
        (["a photo of an astronaut riding a horse"], ["'astronaut'", "--prior sd15"]),
        (["a red mushroom\nand a blue car"], ["red"]),
        (["x" * 5000], ["doesn't know"]),
        (["красный гриб 🍄"], ["doesn't know"]),
        ([PROMPT, "--set", "coarse.stesp=3"], ["'coarse.stesp'", "did you mean steps"]),
        ([PROMPT, "--set", "coarse.steps=soon"], ["'coarse.steps'", "integer", "'soon'"]),
        ([PROMPT, "--set", "a\nb=3"], ["unknown setting"]),
        ([PROMPT, "--set", "coarse.steps"], ["key=value"]),
        ([PROMPT, "--seed", "-1"], ["'seed'"]),
        ([PROMPT, "--config", "nowhere.yaml"], ["nowhere.yaml", "toybox"]),
        ([PROMPT, "--device", "cuda:99"], ["cuda:99", "cpu"]),
        ([PROMPT, "--device", "abacus"], ["abacus", "cpu"]),
        (
            [PROMPT, "--prior", "exact", "--set", "coarse.resolution=32"],
            ["coarse.resolution", "64"],
        ),
        ([PROMPT, "--prior", "exact", "--set", "fine.resolution=256"], ["fine.resolution", "512"]),
        ([PROMPT, "--set", "fine.prompt=a red mushrom"], ["'mushrom'"]),
    ],
)
def test_bad_input_is_told_before_a_folder_is_made(
    mistake: Mistake, tmp_path: Path, command: str, arguments: list[str], words: list[str]
) -> None:
    line = mistake(command, *arguments)
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_on_a_machine_without_it_is_told(mistake: Mistake, tmp_path: Path) -> None:
    line = mistake("run", PROMPT, "--device", "cuda")
    assert "'cuda'" in line
    assert "cpu" in line
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_written_is_told(mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for below in ("file", "file/run", "file/deep/run"):
        assert "cannot write" in mistake("run", PROMPT, "--out", below)
    assert "cannot write" in mistake("run", PROMPT, "--out", "x" * 3000)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    assert "not empty" in mistake("run", PROMPT, "--out", "full")
    assert contents(tmp_path) == {"file": b"mine", "full/letter": b"dear"}


def test_another_run_s_folder_is_left_alone(mistake: Mistake, tmp_path: Path) -> None:
    begun(tmp_path / "mine")
    before = contents(tmp_path)
    assert "other settings" in mistake(
        "run", PROMPT, "--prior", "exact", "--seed", "7", "--out", "mine"
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["fine", "export", "resume", "evaluate"])
@pytest.mark.parametrize("name", ["nowhere", ".", "file", "x" * 3000, "a\nb"])
def test_a_missing_run_is_told(mistake: Mistake, tmp_path: Path, command: str, name: str) -> None:
    (tmp_path / "file").touch()
    line = mistake(command, name)
    assert "run" in line
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["fine", "export", "resume", "evaluate"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("format: [", "damaged"),
        ("format: 7\n", "format 7"),
        ("format: 2\nprompt: a red mushroom\ncolour: red\n", "colour"),
    ],
)
def test_a_damaged_or_foreign_run_is_told(
    mistake: Mistake, tmp_path: Path, command: str, content: str, words: str
) -> None:
    begun(tmp_path / "mine")
    (tmp_path / "mine" / "config.yaml").write_text(content)
    before = contents(tmp_path)
    assert words in mistake(command, "mine")
    assert contents(tmp_path) == before


def test_stages_that_are_not_done_are_told(mistake: Mistake, tmp_path: Path) -> None:
    begun(tmp_path / "mine")
    before = contents(tmp_path)
    line = mistake("fine", "mine")
    assert "coarse stage" in line
    assert "maquette resume mine" in line
    for command in ("export", "evaluate"):
        line = mistake(command, "mine")
        assert "step 0 of 4" in line
        assert "maquette resume mine" in line
    assert contents(tmp_path) == before


def test_export_in_the_middle_of_the_fine_stage_is_told(mistake: Mistake, tmp_path: Path) -> None:
    run = with_coarse_stage(tmp_path / "mine")
    run.fine.mkdir()
    write_checkpoint(run.fine, 2, {"x": torch.ones(1)})
    assert "step 2 of 4" in mistake("export", "mine")
    assert not run.export.exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--faces", "1", "export.faces"), ("--texture-size", "7", "export.texture_size")],
)
def test_limits_of_an_export_are_checked(mistake: Mistake, tmp_path, option, value, words) -> None:
    begun(tmp_path / "mine")
    assert words in mistake("export", "mine", option, value)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def test_damaged_checkpoints_are_named(mistake: Mistake, tmp_path: Path) -> None:
    run = with_coarse_stage(tmp_path / "mine")
    run.fine.mkdir()
    write_first(run.fine, FirstShape(torch.ones(65**3), COLOR, torch.zeros(3)))
    cut_short(write_checkpoint(run.fine, 4, {"x": torch.ones(1)}))
    for command in ("export", "resume", "fine", "evaluate"):
        line = mistake(command, "mine")
        assert "step-000004.safetensors is damaged" in line
        assert "no earlier checkpoint" in line
    cut_short(run.coarse / RESULT)
    line = mistake("fine", "mine")
    assert RESULT in line
    assert "is damaged" in line
    cut_short(checkpoint_path(run.coarse, 4))
    assert "coarse/step-000004.safetensors is damaged" in mistake("resume", "mine")


def test_fine_refuses_what_would_change_the_coarse_stage(mistake: Mistake, tmp_path: Path) -> None:
    with_coarse_stage(tmp_path / "mine")
    before = contents(tmp_path)
    for pair in ("coarse.steps=9", "seed=4", "handoff.resolution=64", "coarse.camera.fovy=[1, 2]"):
        assert "keeps the coarse stage" in mistake("fine", "mine", "--set", pair)
    assert "prompt is empty" in mistake("fine", "mine", "--prompt", " ")
    assert "'mushrom'" in mistake("fine", "mine", "--prompt", "a blue mushrom")
    assert "cuda:99" in mistake("fine", "mine", "--device", "cuda:99")
    assert "'fine.stesp'" in mistake("fine", "mine", "--set", "fine.stesp=3")
    assert contents(tmp_path) == before


def test_scores_of_a_prompt_outside_the_toybox_are_told(mistake: Mistake, tmp_path: Path) -> None:
    run = begun(tmp_path / "mine")
    file = run.folder / "config.yaml"
    file.write_text(file.read_text().replace(PROMPT, "a friendly dragon"))
    assert "dragon" in mistake("evaluate", "mine")


@pytest.mark.parametrize("command", ["resume", "fine", "export"])
def test_a_run_that_another_process_works_on_is_left_alone(
    command: str, mistake: Mistake, tmp_path: Path
) -> None:
    run = with_coarse_stage(tmp_path / "run")
    with sole_writer(run.folder):
        before = contents(run.folder)
        assert f"another process is writing into {run.folder}" in mistake(command, str(run.folder))
        assert contents(run.folder) == before


@pytest.mark.parametrize("file", ["nowhere/scores.json", "file/scores.json", "mine", "."])
def test_scores_that_cannot_be_written_are_told_before_the_work(
    mistake: Mistake, tmp_path: Path, file: str
) -> None:
    begun(tmp_path / "mine")
    (tmp_path / "file").touch()
    assert "cannot write" in mistake("evaluate", "mine", "--json", file)


def test_a_real_process_ends_the_same_way(tmp_path: Path) -> None:
    ended = python(
        "import sys; from maquette import pipeline;"
        " sys.argv = ['maquette', 'run', 'a red dragon']; pipeline.main()",
        tmp_path,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: the toybox doesn't know 'dragon'")
    assert list(tmp_path.iterdir()) == []


HEAVY = ["torch", "numpy", "numba", "scipy", "trimesh", "nerfacc", "diffusers"]


def telling_loaded(
    heavy: list[str], arguments: list[str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """The program with these arguments; its last line names the heavy modules it imported."""
    code = (
        "import atexit, sys\nfrom maquette import pipeline\n"
        f"sys.argv = ['maquette', *{arguments!r}]\n"
        f"atexit.register(lambda: print('LOADED', [m for m in {heavy!r} if m in sys.modules]))\n"
        "pipeline.main()\n"
    )
    return python(code, folder)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["fine", "--help"], []])
def test_help_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    # With a command, typer itself imports pydantic to read its options.
    heavy = HEAVY if len(arguments) > 1 else [*HEAVY, "pydantic"]
    ended = telling_loaded(heavy, arguments, tmp_path)
    assert ended.returncode in (0, 2), ended.stderr
    assert ended.stdout.splitlines()[-1] == "LOADED []"
    assert "Usage" in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "a red dragon"], "the toybox doesn't know 'dragon'"),
        (["run", "a red cat", "--set", "coarse.stepz=3"], "did you mean steps"),
        (["coarse", "a red cat", "--prior", "exactt"], "neither a folder nor a hub id"),
        (["run", "a red cat", "--config", "nowhere"], "no configuration file 'nowhere'"),
    ],
)
def test_a_slip_is_told_before_anything_heavy_is_imported(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    ended = telling_loaded(HEAVY, arguments, tmp_path)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stdout.splitlines()[-1] == "LOADED []"
    assert list(tmp_path.iterdir()) == []


def test_every_command_is_there(monkeypatch, capfd) -> None:
    monkeypatch.setattr(sys, "argv", ["maquette", "--help"])
    with pytest.raises(SystemExit) as ended:
        pipeline.main()
    assert ended.value.code == 0
    told = capfd.readouterr().out
    for name in ("run", "coarse", "fine", "export", "resume", "evaluate", "doctor"):
        assert name in told


@pytest.mark.parametrize("arguments", [["paint"], ["run"], ["run", PROMPT, "--seed", "three"]])
def test_words_that_are_no_command_end_with_code_two(monkeypatch, capfd, arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["maquette", *arguments])
    with pytest.raises(SystemExit) as ended:
        pipeline.main()
    assert ended.value.code == 2
    assert "Traceback" not in capfd.readouterr().err


def test_the_doctor_has_a_line_for_every_part(monkeypatch, capfd) -> None:
    monkeypatch.setattr(sys, "argv", ["maquette", "doctor"])
    with pytest.raises(SystemExit) as ended:
        pipeline.main()
    assert ended.value.code == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines == report()
    parts = dict(line.split(": ", 1) for line in lines)
    for part in (
        "python",
        "torch",
        "device",
        "hash grid",
        "ray marching",
        "volume rendering",
        "visibility",
        "interpolation",
        "antialiasing",
        "marching tetrahedra",
        "unwrapping",
        "bf16",
        "nvdiffrast (optional)",
        "kaolin (optional)",
    ):
        assert part in parts, part
    if not torch.cuda.is_available():
        assert parts["hash grid"].startswith("numba (")
        for part in ("ray marching", "volume rendering", "visibility", "marching tetrahedra"):
            assert parts[part] == "numba (compiled for this processor)"
        assert parts["nerfacc"] == "its sampler runs on CUDA only"

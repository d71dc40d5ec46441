"""What lets the program run elsewhere: the notebook, the images, the extras, the demo."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from maquette import pipeline
from maquette.common.many.jobs import read_jobs

ROOT = Path(pipeline.__file__).parent


def cells() -> list[str]:
    book = json.loads((ROOT / "docs" / "maquette.ipynb").read_text("utf-8"))
    assert book["nbformat"] == 4
    for cell in book["cells"]:
        assert cell["cell_type"] == "markdown" or cell["outputs"] == []
    return ["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebook_runs_top_to_bottom(tmp_path: Path, small_settings: list[str]) -> None:
    text = "\n\n".join(cells())
    assert text.count("SETTINGS = []") == 1
    code = text.replace("SETTINGS = []", f"SETTINGS = {small_settings[1::2]!r}")
    start = f"import sys; sys.path.insert(0, {str(ROOT.parent)!r})\n"
    ended = subprocess.run(
        [sys.executable, "-c", start + code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for line in ended.stdout.splitlines()[-3:]:
        assert (tmp_path / line).is_file(), line


def test_the_notebook_is_python() -> None:
    for cell in cells():
        compile(cell, "cell", "exec")


def test_the_demo_is_the_gallerys_twelve(tmp_path: Path) -> None:
    jobs = read_jobs(str(ROOT / "docs" / "demo.txt"), tmp_path)
    assert len(jobs) == 12
    assert jobs[0].prompt == "a red mushroom"
    assert "batch docs/demo.txt" in (ROOT / "Makefile").read_text("utf-8")


def test_every_extra_is_in_the_readmes_table() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in settings["project"]["optional-dependencies"]:
        if name != "dev":
            assert f"| `[{name}]` |" in readme, name


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_copy_what_there_is_and_start_the_program(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("FROM ")
    assert 'ENTRYPOINT ["maquette"]' in lines
    left_out = (ROOT / ".dockerignore").read_text("utf-8").split()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for package in packages["tool"]["setuptools"]["packages"]:
        assert not any(package.split(".")[1:2] == [each] for each in left_out)
    assert "README.md" not in left_out  # the build reads it
    assert re.search(r"pip install .*\.", text.replace("\\\n", " "))
    for line in lines:
        if line.startswith("COPY "):
            *sources, _ = line.split()[1:]
            assert all((ROOT / source).exists() for source in sources), line
    readme = (ROOT / "README.md").read_text("utf-8")
    assert ("docker build -t maquette ." if name == "Dockerfile" else f"`-f {name}`") in readme
    assert re.search(rf"^#   docker build (-f {name} )?-t maquette", text, re.M)
    if "constraints.txt" in text:
        assert "pip install -c constraints.txt ." in readme
        assert (ROOT / "constraints.txt").is_file()

"""The package as others get it: one import name, nothing missing, usable as a library."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


def sources() -> list[Path]:
    """What git would bring of the package, as a clone has it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy of the sources without network."""
    pytest.importorskip("setuptools", minversion="77")
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for path in sources():
        if path.parts[0] not in ("tests", "benchmarks", "docs"):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, copy / path)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(out), str(copy)], check=True)
    (built,) = out.glob("maquette-*.whl")
    return built


def test_the_packages_that_are_named_are_all_there_are() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found = {"maquette", "maquette.configs"}
    for path in sources():
        if path.suffix == ".py" and path.parts[0] in ("coarse", "common", "fine"):
            found.add(".".join(("maquette", *path.parent.parts)))
    assert set(settings["packages"]) == found
    for name in found - {"maquette", "maquette.configs"}:
        place = ROOT.joinpath(*name.split(".")[1:])
        assert (place / "__init__.py").is_file(), f"{place} is no package"


def test_the_wheel_claims_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"maquette"}
    kept = {name for name in names if name.startswith("maquette/")}
    for path in sources():
        wanted = path.parts[0] in ("coarse", "common", "fine", "configs") or path.name == (
            "pipeline.py"
        )
        assert (f"maquette/{path.as_posix()}" in kept) == (wanted and path.suffix != ".md"), path


def test_the_wheel_runs_without_the_repository(
    wheel: Path, tmp_path: Path, small_settings: list[str]
) -> None:
    """In a bare environment: help, doctor and a short run, from another folder."""
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    # The environment's own libraries, without the editable install of this repository.
    code = (
        "import sys; from pathlib import Path;"
        "sys.meta_path = [f for f in sys.meta_path if 'maquette' not in repr(f).lower()];"
        f"sys.path.insert(0, {str(place)!r});"
        "from maquette import pipeline; import maquette.common;"
        f"assert Path(maquette.common.__file__).is_relative_to({str(place)!r}), maquette.common;"
        "pipeline.main()"
    )
    for arguments in (
        ["--help"],
        ["doctor"],
        ["run", "a red mushroom", "--out", "run", "--no-films", *small_settings],
    ):
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "export" / "a-red-mushroom.obj").is_file()


def test_the_examples_of_the_library_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "library.md").read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(examples) == 5
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for example in examples:
        lines = [line for line in example.splitlines() if line.strip()]
        own = [line for line in lines if not line.startswith(("import ", "from "))]
        assert len(own) < 20
        exec(example, names)
    red, green, blue = torch.sigmoid(names["color"]).tolist()
    assert red > max(green, blue)  # the sphere took the mushroom's colour
    middle = torch.sigmoid(names["pixels"])[0, 20:30, 24:40].mean(dim=(0, 1))
    assert float(middle[0].detach()) > 0.5 > float(middle[1].detach())
    assert float(names["vertices"].grad.abs().sum()) > 0.0
    radius = names["mesh"].vertices.norm(dim=-1)
    torch.testing.assert_close(radius, torch.full_like(radius, 0.6), atol=0.02, rtol=0)
    assert names["report"].psnr_mean > 30.0
    assert (tmp_path / "exported" / "ball.obj").is_file()

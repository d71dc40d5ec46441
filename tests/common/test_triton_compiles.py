"""Every Triton kernel compiles for the cards it is meant for, without one being there.

In a process of its own: with the interpreter on, as in other tests, there is nothing to compile.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tests.reference.kernels import KERNELS

for module, kernel, signature, constants in KERNELS:
    function = getattr(importlib.import_module(module), kernel)
    for capability in (80, 90):
        source = ASTSource(fn=function, signature=signature, constexprs=constants)
        options = {"enable_fp_fusion": False}
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert made.asm["cubin"], kernel
        print(kernel, capability, len(made.asm["cubin"]))
"""


def test_every_kernel_compiles_for_ampere_and_hopper(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    from tests.reference.kernels import KERNELS

    assert len(done.stdout.splitlines()) == 2 * len(KERNELS)


def test_no_kernel_is_forgotten() -> None:
    """Whatever is called with a grid in a Triton module is among those that are compiled."""
    import re

    from tests.reference.kernels import KERNELS

    found = set()
    known = {(module, kernel) for module, kernel, _, _ in KERNELS}
    for path in [*ROOT.glob("co*/**/triton_*.py"), *ROOT.glob("fine/**/triton_*.py")]:
        module = "maquette." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for kernel in re.findall(r"\blaunch\(\s*(_\w+)", path.read_text("utf-8")):
            assert (module, kernel) in known, f"{module} {kernel}"
            found.add((module, kernel))
    assert found == known

"""Which twin runs where, by hand or by trying; and what is told of a card and its torch."""

from __future__ import annotations

import subprocess

import pytest
import torch

from maquette.common import backends, device
from maquette.common.backends import Twin, everywhere, numba_obstacle, pick
from maquette.common.config.backends import BackendsConfig
from maquette.common.config.priors import PriorConfig
from maquette.common.device import build_problem, card_beside, constant, news, pick_device, send
from maquette.common.errors import UserError
from maquette.common.priors.loading import choose_dtype, dtype_note
from maquette.common.runs.doctor import PARTS, twin_of

CUDA = torch.device("cuda")


def broken(device: torch.device) -> str | None:
    return "no compiler"


def test_the_first_twin_that_runs_is_taken_and_the_others_told() -> None:
    twins = {"numba": numba_obstacle, "triton": broken, "torch": everywhere}
    assert pick("hash_grid", "cpu", twins) == Twin("numba", "compiled for this processor")
    assert str(pick("hash_grid", "cuda", twins)) == "torch (triton: no compiler)"
    assert pick("hash_grid", "cpu", twins, float32=False).name == "torch"


def test_a_twin_is_tried_once_until_another_is_chosen() -> None:
    asked = []

    def counted(device: torch.device) -> str | None:
        asked.append(device)
        return None

    for _ in range(3):
        pick("hash_grid", "cuda", {"triton": counted, "torch": everywhere})
    assert asked == [CUDA]
    backends.use(BackendsConfig())
    pick("hash_grid", "cuda", {"triton": counted, "torch": everywhere})
    assert len(asked) == 2


def test_a_choice_by_hand_runs_or_ends_in_one_line() -> None:
    twins = {"numba": numba_obstacle, "triton": broken, "torch": everywhere}
    backends.use(BackendsConfig(hash_grid="torch"))
    assert pick("hash_grid", "cpu", twins) == Twin("torch", "chosen by hand")
    assert pick("visibility", "cpu", twins).name == "numba"
    backends.use(BackendsConfig(hash_grid="triton"))
    with pytest.raises(UserError, match=r"backends.hash_grid: triton does not run here: no comp"):
        pick("hash_grid", "cuda", twins)


def test_every_part_has_plain_torch_for_devices_that_have_nothing_else() -> None:
    for part in PARTS:
        assert twin_of(part, torch.device("cpu")).startswith("numba (")
        if not torch.cuda.is_available():
            assert twin_of(part, torch.device("xpu")).startswith("torch (")


def test_a_card_is_held_against_what_torch_was_built_for() -> None:
    built = ["sm_75", "sm_80", "sm_86", "sm_90"]
    for fits in ((7, 5), (8, 0), (8, 9), (9, 0)):
        assert build_problem(fits, built) is None
    older, newer = build_problem((6, 1), built), build_problem((12, 0), built)
    assert "older than this torch was built for" in str(older)
    assert "install a newer build" in str(newer)
    assert build_problem((12, 0), [*built, "compute_90"]) is None
    assert build_problem((9, 0), ["sm_90a"]) is None
    assert build_problem((9, 0), ["gfx90a"]) is None


def test_a_torch_without_cuda_beside_a_card_is_told_with_what_mends_it(monkeypatch) -> None:
    monkeypatch.setattr(device.torch.version, "cuda", None)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/bin/{name}")
    answer = subprocess.CompletedProcess([], 0, stdout="NVIDIA Fine Card\n", stderr="")
    monkeypatch.setattr(device.subprocess, "run", lambda *a, **k: answer)
    line = card_beside()
    assert line is not None
    assert "NVIDIA Fine Card" in line
    assert "pip install" in line
    with pytest.raises(UserError, match="NVIDIA Fine Card"):
        pick_device("cuda")
    device._said.clear()
    assert len(news("auto")) == 1
    assert news("auto") == []  # once is enough
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    assert card_beside() is None


def test_a_card_that_torch_was_not_built_for_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device.torch.cuda, "get_device_capability", lambda d=None: (3, 5))
    monkeypatch.setattr(device.torch.cuda, "get_arch_list", lambda: ["sm_80"])
    device._said.clear()
    assert pick_device("auto").type == "cpu"
    assert "3.5 is older" in news("auto")[0]
    with pytest.raises(UserError, match="install an older build of torch; or give --device cpu"):
        pick_device("cuda")


def test_bfloat16_becomes_float16_on_a_card_without_it_and_is_told(monkeypatch) -> None:
    loading = "maquette.common.priors.loading.computes_bf16"
    for has, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(loading, lambda device, has=has: has)
        for options, family in ((PriorConfig(), "flux"), (PriorConfig(dtype="bfloat16"), "sd")):
            assert choose_dtype(options, family, CUDA) == dtype
            assert (dtype_note(options, family, CUDA) is None) == has
    assert dtype_note(PriorConfig(dtype="float16"), "flux", CUDA) is None
    assert dtype_note(PriorConfig(dtype="bfloat16"), "sd", torch.device("cpu")) is None


def test_constants_are_made_once_a_device() -> None:
    where = torch.device("cpu")
    assert constant((1, 2), where) is constant((1, 2), where)
    assert constant(((1.0, 2.0),), where).dtype == torch.float32
    assert torch.equal(send(torch.arange(3), where), torch.arange(3))


def test_constants_of_whole_numbers_are_not_those_of_others() -> None:
    """(1, 0, 1) equals (1.0, 0.0, 1.0), and an index is no colour."""
    cpu = torch.device("cpu")
    for values in ((1.0, 0.0, 1.0), (1, 0, 1), (True, False, True), (1.0, 0.0, 1.0)):
        assert constant(values, cpu).dtype == torch.tensor(values).dtype
    assert constant((1, 0, 1), cpu, torch.float64).dtype == torch.float64
    assert constant((1, 0, 1), cpu) is constant((1, 0, 1), cpu)

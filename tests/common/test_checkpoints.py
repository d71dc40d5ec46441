"""Checkpoints: bit-equal, whole or not at all, and honest about damage."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maquette.common import files
from maquette.common.errors import UserError
from maquette.common.files import remove_parts, write_whole
from maquette.common.runs import checkpoints
from maquette.common.runs.checkpoints import (
    DamagedCheckpointError,
    load_optimizer_state,
    load_random_state,
    optimizer_state,
    parameter_names,
    random_state,
    read_latest,
    read_tensors,
    steps_on_disk,
    under_prefix,
    with_prefix,
    write_checkpoint,
    write_tensors,
)

TENSORS = {
    "a/weight": torch.tensor([[1.0, float("nan"), -0.0], [1e-45, float("inf"), 3.0]]),
    "a/step": torch.tensor(7.0),
    "b": torch.arange(5),
    "mask": torch.tensor([True, False]),
    "bytes": torch.randint(0, 255, (40,)).to(torch.uint8),
    "half": torch.tensor([1.5, -2.0]).to(torch.bfloat16),
    "none": torch.zeros(0, 3),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    def raw(value: Tensor) -> bytes:
        return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return one.keys() == two.keys() and all(
        one[k].dtype == two[k].dtype and one[k].shape == two[k].shape and raw(one[k]) == raw(two[k])
        for k in one
    )


def test_what_is_read_is_what_was_written_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    assert same_bits(read_tensors(path), TENSORS)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch, failing: str) -> None:
    path = write_checkpoint(tmp_path, 3, {"x": torch.ones(2)})
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, failing, refuse)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(tmp_path, 3, {"x": torch.zeros(2)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_nothing_of_the_name_exists_before_the_whole_of_it(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x"
    seen = []
    replace = os.replace

    def watched(source: str, target: Path) -> None:
        seen.append((Path(source).read_text(), target.exists()))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", watched)
    write_whole(path, "all of it")
    assert seen == [("all of it", False)]
    assert path.read_text() == "all of it"


def test_files_are_readable_as_the_user_s_mask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_leftovers_of_a_killed_write_are_removed(tmp_path: Path) -> None:
    write_whole(tmp_path / "kept.part", "a file of the user's own")
    (tmp_path / ".step-000006.safetensors.abc123.part").write_bytes(b"half")
    remove_parts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.part"]


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        write_checkpoint(tmp_path, step, {"x": torch.tensor(step)})
        assert len(steps_on_disk(tmp_path)) <= checkpoints.KEEP
    (tmp_path / "step-x.safetensors").touch()
    (tmp_path / "first.safetensors").touch()
    assert steps_on_disk(tmp_path) == [15, 20]
    # Going on from 15 after 20 was lost: the later name is kept until it is written anew.
    write_checkpoint(tmp_path, 17, {"x": torch.tensor(17)})
    assert steps_on_disk(tmp_path) == [15, 17, 20]
    assert steps_on_disk(tmp_path / "nowhere") == []


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    path.write_text("not a checkpoint at all, but long enough to have a header")


DAMAGES = (truncate, flip_a_bit, empty, swap)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_checkpoint_before_is_used(tmp_path: Path, damage) -> None:
    write_checkpoint(tmp_path, 10, {"x": torch.tensor([10.0])})
    damage(write_checkpoint(tmp_path, 20, {"x": torch.tensor([20.0])}))
    told: list[str] = []
    step, tensors = read_latest(tmp_path, told.append)
    assert step == 10
    assert tensors is not None
    assert tensors["x"].tolist() == [10.0]
    assert len(told) == 1
    assert "step-000020.safetensors" in told[0]
    assert "going on from step-000010.safetensors" in told[0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_but_damage_is_the_user_s_to_mend(tmp_path: Path, damage) -> None:
    damage(write_checkpoint(tmp_path, 10, {"x": torch.ones(3)}))
    damage(write_checkpoint(tmp_path, 20, {"x": torch.ones(3)}))
    told: list[str] = []
    with pytest.raises(UserError, match=r"step-000010\.safetensors is damaged.*maquette resume"):
        read_latest(tmp_path, told.append)
    assert len(told) == 1


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"x": torch.arange(3.0), "y": torch.tensor(2)}
    write_tensors(path, tensors)
    whole = path.read_bytes()
    silent = []
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(data))
        try:
            read = read_tensors(path)
        except (DamagedCheckpointError, UserError):
            continue
        # A flip may only pass where it leaves the tensors alone, such as in the padding.
        if not same_bits(read, tensors):
            silent.append(place)
    assert silent == []


def test_no_checkpoints_are_no_mistake(tmp_path: Path) -> None:
    assert read_latest(tmp_path, print) == (None, None)
    assert read_latest(tmp_path / "nowhere", print) == (None, None)


def test_a_checkpoint_of_another_version_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch
) -> None:
    write_checkpoint(tmp_path, 10, {"x": torch.ones(3)})
    monkeypatch.setattr(checkpoints, "FORMAT", "3")
    with pytest.raises(UserError, match="format '2', this version reads '3'"):
        read_latest(tmp_path, print)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def steps(net: nn.Module, adam: torch.optim.Adam, count: int) -> None:
    for _ in range(count):
        loss = (net(torch.rand(5, 3)) - 1).pow(2).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()


def test_optimizer_and_random_state_give_the_same_next_steps(tmp_path: Path) -> None:
    net = network()
    adam = torch.optim.Adam(net.parameters(), lr=0.05, betas=(0.9, 0.99))
    steps(net, adam, 4)
    state = optimizer_state(adam, parameter_names(("net", net)))
    assert "optimizer/net.0.weight/exp_avg" in state
    write_tensors(
        tmp_path / "x", state | with_prefix("net", copy.deepcopy(net.state_dict())) | random_state()
    )
    steps(net, adam, 6)

    torch.manual_seed(99)
    other = network()
    again = torch.optim.Adam(other.parameters(), lr=0.05, betas=(0.9, 0.99))
    tensors = read_tensors(tmp_path / "x")
    other.load_state_dict(under_prefix("net", tensors))
    load_optimizer_state(again, parameter_names(("net", other)), tensors)
    load_random_state(tensors)
    steps(other, again, 6)
    assert same_bits(dict(net.state_dict()), dict(other.state_dict()))


def test_without_the_moments_the_next_steps_differ(tmp_path: Path) -> None:
    """The test above would pass if nothing of the optimizer mattered; it does."""
    net = network()
    adam = torch.optim.Adam(net.parameters(), lr=0.05)
    steps(net, adam, 4)
    other = copy.deepcopy(net)
    random = random_state()
    steps(net, adam, 2)
    load_random_state(random)
    steps(other, torch.optim.Adam(other.parameters(), lr=0.05), 2)
    assert not same_bits(dict(net.state_dict()), dict(other.state_dict()))


def test_the_random_state_goes_on_where_it_was() -> None:
    torch.manual_seed(8)
    torch.rand(3)
    state = random_state()
    ahead = torch.rand(4), torch.randn(4)
    load_random_state(state)
    assert torch.equal(torch.rand(4), ahead[0])
    assert torch.equal(torch.randn(4), ahead[1])


def test_prefixes_come_off_as_they_went_on() -> None:
    state = {"w": torch.ones(1), "deep/w": torch.zeros(1)}
    both = with_prefix("one", state) | with_prefix("one-more", state)
    assert under_prefix("one", both).keys() == state.keys()

"""How many threads: what is asked for, what the environment says, what a container grants."""

from __future__ import annotations

from pathlib import Path

import pytest

from maquette.common import threads
from maquette.common.errors import UserError
from maquette.common.threads import COUNTS, allowed_cores, container_limit, crowding, settle


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    environment: dict[str, str] = {}
    settle(2, environment)
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    environment = {"OMP_WAIT_POLICY": "ACTIVE"}
    settle(None, environment)
    assert environment["OMP_WAIT_POLICY"] == "ACTIVE"


def test_what_is_asked_for_counts() -> None:
    environment = {"OMP_NUM_THREADS": "7"}
    assert settle(3, environment) == 3
    assert {environment[name] for name in COUNTS} == {"3"}


def test_then_the_environment_counts() -> None:
    environment = {"OMP_NUM_THREADS": "3,2"}
    assert settle(None, environment) is None
    assert environment["OMP_NUM_THREADS"] == "3,2"
    assert environment["NUMBA_NUM_THREADS"] == "3"


def test_without_a_limit_the_libraries_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "container_limit", lambda: None)
    environment: dict[str, str] = {}
    assert settle(None, environment) is None
    assert not set(COUNTS) & environment.keys()


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: 8)
    monkeypatch.setattr(threads, "container_limit", lambda: 2.5)
    environment: dict[str, str] = {}
    assert settle(None, environment) == 3
    assert environment["NUMBA_NUM_THREADS"] == "3"
    monkeypatch.setattr(threads, "container_limit", lambda: 0.2)
    assert allowed_cores() == 1


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", ["0", "-1", "many", "", "1.5"])
def test_a_number_that_is_none_is_told(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{name}=.*at least 1"):
        settle(None, {name: value})


@pytest.mark.parametrize("count", [0, -3, 10**6])
def test_an_option_that_is_no_number_of_threads_is_told(count: int) -> None:
    with pytest.raises(UserError, match="--threads"):
        settle(count, {})


def group(root: Path, path: str, quota: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    (root / path / "cpu.max").write_text(quota + "\n")


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/outer/inner\n")
    root = tmp_path / "cgroup"
    assert container_limit(root, proc) is None
    group(root, "outer/inner", "max 100000")
    assert container_limit(root, proc) is None
    group(root, "outer", "150000 100000")
    assert container_limit(root, proc) == 1.5
    group(root, "outer/inner", "50000 100000")
    assert container_limit(root, proc) == 0.5


def test_groups_of_the_first_version(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("3:memory:/x\n2:cpu,cpuacct:/box\n")
    place = tmp_path / "cgroup" / "cpu" / "box"
    place.mkdir(parents=True)
    (place / "cpu.cfs_quota_us").write_text("-1\n")
    (place / "cpu.cfs_period_us").write_text("100000\n")
    assert container_limit(tmp_path / "cgroup", proc) is None
    (place / "cpu.cfs_quota_us").write_text("200000\n")
    assert container_limit(tmp_path / "cgroup", proc) == 2.0


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "allowed_cores", lambda: 4)
    monkeypatch.setattr(threads, "busy_cores", lambda: 0.4)
    assert crowding() is None
    monkeypatch.setattr(threads, "busy_cores", lambda: 2.9)
    line = crowding()
    assert line is not None
    assert "2.9 of 4 cores" in line
    assert "--threads 1" in line

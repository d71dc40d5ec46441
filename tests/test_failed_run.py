"""A run whose first seed fails: told and stopped, or begun again with the next one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from maquette import pipeline
from maquette.common.runs.failure import Watch
from maquette.common.runs.folder import open_run

pytestmark = pytest.mark.slow

PROMPT = "a red mushroom"


@pytest.fixture(autouse=True)
def _unlucky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 0 grows nothing, as the rule sees it at the fourth step; any other is well."""

    def look(watch: Watch, step: int, *seen: object) -> None:
        if watch.seed == 0 and watch.stage == "coarse" and step == 3:
            watch.failed("empty", step + 1)

    monkeypatch.setattr(Watch, "look", look)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["maquette", *arguments])
    with pytest.raises(SystemExit) as ended:
        pipeline.main()
    return int(ended.value.code or 0)


def test_the_answer_is_the_user_s(
    tmp_path: Path, small_settings: list[str], monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    folder = tmp_path / "run"
    start = ("run", PROMPT, "--out", str(folder), "--device", "cpu", *small_settings)
    assert command(monkeypatch, *start) == 2
    (line,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error: ")]
    assert "the scene is empty" in line
    assert "--seed 1" in line
    assert "--on-failure retry" in line
    # What can't be done for now says why, and doesn't send back to where it came from.
    assert command(monkeypatch, "evaluate", str(folder)) == 2
    told = capfd.readouterr().err
    assert "isn't finished" in told or "the scene is empty" in told
    # The same step fails the same way; then the next seed is well.
    assert command(monkeypatch, "resume", str(folder), "--on-failure", "retry") == 0
    assert "beginning again with seed 1" in capfd.readouterr().err
    assert open_run(str(folder)).config.seed == 1
    assert (folder / "export" / "a-red-mushroom.obj").is_file()
    events = [json.loads(x) for x in (folder / "events.jsonl").read_text().splitlines()]
    assert [e["kind"] for e in events if e["event"] == "failed"] == ["empty", "empty"]

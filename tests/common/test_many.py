"""Many runs: jobs from files, what they may take of a machine, trying again, ranking, reports."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from maquette import pipeline
from maquette.common.begin import Choices
from maquette.common.embedded import door
from maquette.common.errors import UserError
from maquette.common.guidance.ask import Ask as Asking
from maquette.common.guidance.conditions import Rows
from maquette.common.many.jobs import Job, read_jobs
from maquette.common.many.pool import Progress, RayHands, run_jobs
from maquette.common.many.preference import evidence
from maquette.common.many.report import (
    TILE,
    contact_png,
    markdown,
    telling,
    words,
    write_report,
)
from maquette.common.many.resources import Ask, Machine, Share, shared
from maquette.common.many.seeds import Ranked, seed_jobs, write_ranking
from maquette.common.many.work import Outcome
from maquette.common.priors.base import Condition, TextEmbedding
from maquette.common.priors.noise import cosine_schedule
from maquette.common.runs.checkpoints import read_tensors
from maquette.common.runs.history import read_events
from maquette.common.runs.watching import Watching, choose
from maquette.common.scene.cameras import orbit
from maquette.common.shelf.summary import summarize
from tests.made_run import made_run

ROOT = Path(pipeline.__file__).parent


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    choose(Watching())


def jobs_of(tmp_path: Path, text: str, name: str = "jobs.yaml", **common: object) -> list[Job]:
    (tmp_path / name).write_text(text)
    return read_jobs(str(tmp_path / name), tmp_path / "out", Choices(**common))  # type: ignore


# Jobs


def test_a_prompt_a_line(tmp_path: Path) -> None:
    text = "# toys\na red mushroom\n\n  a blue cat \na red mushroom\n"
    jobs = jobs_of(tmp_path, text, "prompts.txt", preset="fast")
    assert [job.prompt for job in jobs] == ["a red mushroom", "a blue cat", "a red mushroom"]
    assert [job.name for job in jobs] == ["a-red-mushroom", "a-blue-cat", "a-red-mushroom-2"]
    assert jobs[0].choices.preset == "fast"
    assert jobs[0].choices.out == str(tmp_path / "out" / "a-red-mushroom")
    assert Job.of_data(json.loads(json.dumps(jobs[1].as_data()))) == jobs[1]


def test_settings_a_job_and_grids(tmp_path: Path) -> None:
    text = """
defaults: {prior: exact, set: {coarse.steps: 50, fine.steps: 10}}
jobs:
  - a red mushroom
  - {prompt: a blue cat, seed: 3, set: {fine.steps: 5}}
  - prompt: a green car
    grid: {seed: [0, 1], coarse.views: [1, 2]}
"""
    first, second, *grid = jobs_of(tmp_path, text)
    assert first.choices.prior == "exact"
    assert set(first.choices.settings) == {"coarse.steps=50", "fine.steps=10"}
    assert second.choices.seed == 3
    assert set(second.choices.settings) == {"coarse.steps=50", "fine.steps=5"}
    assert [job.choices.seed for job in grid] == [0, 0, 1, 1]
    assert [job.choices.settings[-1] for job in grid] == [f"coarse.views={n}" for n in (1, 2, 1, 2)]
    assert grid[1].name == "a-green-car-seed-0-views-2"
    assert len({job.folder for job in grid}) == 4


@pytest.mark.parametrize(
    ("text", "words_"),
    [
        ("jobs: 3", "must hold a list of jobs"),
        ("jobs: [a: 1", "is not valid YAML"),
        ("jobs: []", "holds no job"),
        ("jobs: [{seed: 3}]", "prompt: expected a text, got None"),
        ("jobs: [{prompt: a cat, promt: x}]", "did you mean prompt"),
        ("jobs: [{prompt: a cat, seed: x}]", "seed: expected a whole number"),
        ("jobs: [{prompt: a cat, grid: {seed: 3}}]", "grid: expected a list of values"),
        ("jobs: [{prompt: a cat, set: {coarse.stepz: 3}}]", "'a-cat': unknown setting"),
        ("jobs: [a red dragon]", "'a-red-dragon': the toybox doesn't know 'dragon'"),
        ("job: [a cat]", "must hold a list of jobs"),
        ("{jobs: [a cat], more: 1}", "unknown key 'more'"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_before_anything_begins(tmp_path, text, words_) -> None:
    with pytest.raises(UserError, match=words_):
        jobs_of(tmp_path, text)
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        read_jobs(str(tmp_path / "nowhere.txt"), tmp_path)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a text file"):
        read_jobs(str(tmp_path / "bytes.txt"), tmp_path)


def test_a_run_of_other_settings_does_not_pass_for_a_job(tmp_path: Path) -> None:
    made_run(tmp_path / "out", "a-red-mushroom")
    (job,) = jobs_of(tmp_path, "jobs: [a red mushroom]")
    assert (job.folder / "config.yaml").is_file()
    with pytest.raises(UserError, match=r"'a-red-mushroom': .* holds a run with other settings"):
        jobs_of(tmp_path, "jobs: [{prompt: a red mushroom, seed: 7}]")


# Resources


@pytest.mark.parametrize(
    ("machine", "jobs", "ask", "expected"),
    [
        (Machine(8, 32.0), 12, Ask(), Share(8, 1.0, 0.0, 2.0)),
        (Machine(8, 32.0), 3, Ask(), Share(3, 2.0, 0.0, 2.0)),
        (Machine(8, 5.0), 12, Ask(), Share(2, 4.0, 0.0, 2.0)),  # no more than fits the memory
        (Machine(2, 1.0), 12, Ask(), Share(1, 2.0, 0.0, 1.0)),
        (Machine(16, 64.0, gpus=1), 12, Ask(), Share(1, 16.0, 1.0, 2.0)),
        (Machine(16, 64.0, gpus=1), 12, Ask(gpus=0.25), Share(4, 4.0, 0.25, 2.0)),
        (Machine(16, 64.0, gpus=4), 12, Ask(gpus=2.0), Share(2, 8.0, 2.0, 2.0)),
        (Machine(4, 32.0), 12, Ask(workers=2), Share(2, 2.0, 0.0, 2.0)),
        (Machine(4, 32.0), 12, Ask(cpus=2.0), Share(2, 2.0, 0.0, 2.0)),
    ],
)
def test_a_machine_is_shared(machine, jobs, ask, expected) -> None:
    assert shared(machine, jobs, ask) == expected
    assert expected.workers * expected.cpus <= machine.cpus


@pytest.mark.parametrize(
    ("ask", "words_"),
    [
        (Ask(workers=3, cpus=2.0), "ask for 6 by --cpus, this machine has 4"),
        (Ask(workers=4, memory=16.0), "ask for 64 by --memory"),
        (Ask(gpus=2.0), "by --gpus"),
        (Ask(workers=0), "--workers: expected more than 0"),
        (Ask(gpus=1.5), "--gpus: expected a part of one card"),
    ],
)
def test_no_more_is_asked_for_than_there_is(ask, words_) -> None:
    with pytest.raises(UserError, match=words_):
        shared(Machine(4, 32.0), 12, ask)


# Trying again


class Fake:
    """Two workers whose outcomes are given, by the job's name and try."""

    def __init__(self, outcomes: dict[str, list[Outcome | None]]) -> None:
        self.outcomes, self.busy, self.order = outcomes, [], []

    def idle(self) -> int:
        return 2 - len(self.busy)

    def start(self, job: Job) -> object:
        assert self.idle() > 0
        self.order.append(job.name)
        ticket = (job.name, self.order.count(job.name))
        self.busy.append(ticket)
        return ticket

    def ended(self, wait: float):
        ticket = self.busy.pop(0)
        return [(ticket, self.outcomes.get(ticket[0], [Outcome(1.0)] * 9)[ticket[1] - 1])]


def named(tmp_path: Path, *names: str) -> list[Job]:
    return [Job("a cat", Choices(out=str(tmp_path / n)), tmp_path / n) for n in names]


def test_jobs_are_skipped_tried_again_and_given_up(tmp_path: Path) -> None:
    done = tmp_path / "done" / "export"
    done.mkdir(parents=True)
    (done / "report.json").write_text("{}")
    hands = Fake(
        {
            "killed": [None, Outcome(5.0)],
            "crashing": [Outcome(1.0, "RuntimeError: x", again=True)] * 3,
            "wrong": [Outcome(1.0, "no such model")],
        }
    )
    told: list[list[str]] = []
    jobs = named(tmp_path, "done", "killed", "crashing", "wrong", "fine")
    found = run_jobs(jobs, hands, lambda each: told.append([p.state for p in each]), retries=2)
    by_name = {each.job.name: each for each in found}
    assert "done" not in hands.order
    assert by_name["done"].skipped
    assert (by_name["killed"].state, by_name["killed"].tries) == ("finished", 2)
    assert by_name["killed"].seconds == 5.0
    assert (by_name["crashing"].state, by_name["crashing"].tries) == ("failed", 3)
    assert (by_name["wrong"].state, by_name["wrong"].tries) == ("failed", 1)
    assert by_name["fine"].state == "finished"
    assert [each.job.name for each in found] == [job.name for job in jobs]
    assert told[0] == ["finished", "waiting", "waiting", "waiting", "waiting"]


def test_changes_are_told_once(tmp_path: Path, capsys) -> None:
    with telling() as tell:
        run_jobs(named(tmp_path, "one"), Fake({"one": [None, Outcome(61.0)]}), tell)
    assert capsys.readouterr().err.splitlines() == [
        "0/1  one: running",
        "0/1  one: to be tried again: its worker died",
        "0/1  one: begun again, try 2",
        "1/1  one: finished in 1:01",
    ]
    choose(Watching(output="json"))
    with telling() as tell:
        run_jobs(named(tmp_path, "one"), Fake({}), tell)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["event"], row["state"]) for row in rows] == [
        ("job", "running"),
        ("job", "finished"),
    ]


# Reports


def test_the_report_and_its_contact_sheet(tmp_path: Path) -> None:
    one, two = named(tmp_path, "one", "two")
    (one.folder / "fine").mkdir(parents=True)
    Image.new("RGB", (10, 10), (255, 0, 0)).save(one.folder / "fine" / "poster.png")
    found = [
        Progress(one, "finished", 1, 12.5),
        Progress(two, "failed", 3, error="RuntimeError: a | b"),
    ]
    paths = write_report(tmp_path, found, time.monotonic() - 90, workers=2)
    data = json.loads(paths[0].read_text())
    assert [row["state"] for row in data["jobs"]] == ["finished", "failed"]
    assert data["seconds"] == pytest.approx(90, abs=1)
    text = paths[1].read_text()
    assert text.startswith("# 2 jobs: 1 finished, 1 failed")
    assert "failed: RuntimeError: a \\| b" in text
    with Image.open(paths[2]) as sheet:
        assert sheet.width == 2 * TILE
        assert sheet.getpixel((TILE // 2, TILE // 2)) == (255, 0, 0)
        assert sheet.getpixel((TILE + TILE // 2, TILE // 2)) == (255, 255, 255)
    assert words(Progress(one, "finished", 0, skipped=True)) == "finished before"
    assert "1:30" in markdown(found, [summarize(j.folder) for j in (one, two)], 90.0, 2)


def test_a_contact_sheet_has_rows() -> None:
    with Image.open(io.BytesIO(contact_png([None] * 5, ["x"] * 5))) as sheet:
        assert sheet.width == 4 * TILE
        assert 2 * TILE < sheet.height < 3 * TILE


# Seeds


def test_seeds_have_folders_of_their_own(tmp_path: Path) -> None:
    choices = Choices(seed=5, out=str(tmp_path / "many"))
    jobs = seed_jobs("a red mushroom", choices, 3)
    assert [job.choices.seed for job in jobs] == [5, 6, 7]
    assert [job.folder.name for job in jobs] == ["seed-5", "seed-6", "seed-7"]
    assert jobs[0].folder.parent == tmp_path / "many"
    beside = seed_jobs("a red mushroom", Choices(), 2)
    assert beside[0].folder == Path("runs/a-red-mushroom-seeds/seed-0")
    with pytest.raises(UserError, match="--seeds: expected 2 or more"):
        seed_jobs("a red mushroom", choices, 1)


def test_the_best_seed_comes_first(tmp_path: Path) -> None:
    (job,) = named(tmp_path, "one")
    ranked = [Ranked(job, 0, 0.1), Ranked(job, 1, 0.3), Ranked(job, 2, None, clip=0.9)]
    best = sorted(ranked, key=lambda each: each.key, reverse=True)
    assert [each.seed for each in best] == [1, 0, 2]
    assert Ranked(job, 0, 0.1, clip=0.2).key > Ranked(job, 1, 0.1, clip=0.1).key
    (path,) = write_ranking(tmp_path, best, time.monotonic())
    assert path.is_file()
    rows = json.loads((tmp_path / "ranking.json").read_text())["ranking"]
    assert [row["seed"] for row in rows] == [1, 0, 2]


class Two:
    """A prior of two single images: what is wanted, and what stands for no prompt."""

    def __init__(self, wanted: torch.Tensor, empty: torch.Tensor) -> None:
        self.schedule, self.clean = cosine_schedule(100), {"toy": wanted, "": empty}

    def predict_noise(self, x_t, t, condition):
        alpha, sigma = self.schedule.at(t)
        clean = torch.stack([self.clean[text] for text in condition.text.prompts])
        return (x_t - alpha * clean) / sigma


def asking(prior: Two, count: int) -> Asking:
    def told(text: str) -> Condition:
        rows = torch.zeros(count, 1)
        return Condition(TextEmbedding((text,) * count, {"row": rows}), orbit(count))

    return Asking(prior, Rows(told("toy"), told("")))  # pyright: ignore


def test_the_evidence_is_that_of_the_distances() -> None:
    wanted, empty = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)
    ask = asking(Two(wanted, empty), 2)
    # With one image as the whole prior the error is (alpha / sigma) (x - image), so that the ratio
    # is that of the squared distances, whatever the level.
    x = torch.full((2, 3, 4, 4), 0.25)
    assert evidence(ask, x) == pytest.approx(1.0 - 0.25**2 / 0.75**2, abs=1e-4)
    assert evidence(ask, x * 0.0) == pytest.approx(1.0, abs=1e-4)
    assert evidence(ask, x * 2.0) == pytest.approx(0.0, abs=1e-4)
    assert evidence(ask, x * 3.0) < 0.0


def test_a_worker_watches_as_the_command_says(tmp_path: Path) -> None:
    told: list[Any] = []

    actor = SimpleNamespace(work=SimpleNamespace(remote=lambda *values: told.extend(values)))
    worker = SimpleNamespace(remote=lambda threads: actor)
    hands = RayHands(None, Share(1, 1.0, 0.0, 2.0), worker)
    choose(Watching(verbose=True, previews=0, films=False, log="wandb"))
    (job,) = named(tmp_path, "one")
    hands.start(job)
    assert told[0] == job.as_data()
    assert Watching(**told[1]) == Watching("quiet", previews=0, films=False, log="wandb")


# A worker keeps its priors


def test_priors_are_loaded_once_a_worker(monkeypatch) -> None:
    from maquette.common.config.priors import PriorConfig

    loaded = []
    monkeypatch.setattr(door, "load", lambda prior, *_, **__: loaded.append(prior) or object())
    monkeypatch.setattr(door, "_kept", None)
    one, two = PriorConfig(name="one"), PriorConfig(name="two")
    door.load_or_kept(one)
    door.load_or_kept(one)
    assert len(loaded) == 2  # a single run keeps nothing
    door.keep_priors()
    assert door.load_or_kept(one) is door.load_or_kept(one)
    assert door.load_or_kept(two) is not door.load_or_kept(one)
    assert door.load_or_kept(one, "cuda") is not door.load_or_kept(one)
    assert len(loaded) == 2 + 4  # of two kept, the oldest went
    monkeypatch.setattr(door, "_kept", None)


# Ray


def child(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", "from maquette.pipeline import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_batch_over_ray_resumes_and_has_the_bits_of_single_runs(
    tmp_path: Path, small_run: Path, small_settings: list[str]
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "prompts.txt").write_text("a red mushroom\na blue mushroom\n")
    words = ("--device", "cpu", "--no-films", "--previews", "0", *small_settings)
    command = ("batch", "prompts.txt", "--cpus", "1", "--workers", "1", *words)
    first, second = (tmp_path / "runs" / "prompts" / f"a-{c}-mushroom" for c in ("red", "blue"))
    shutil.copytree(small_run, first)  # was finished before
    stamp = (first / "export" / "report.json").stat().st_mtime_ns
    process = child(tmp_path, *command)
    while not list(second.glob("coarse/step-*.safetensors")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)  # the driver, in the middle
    process.wait(60)
    process = child(tmp_path, *command)
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    assert "a-red-mushroom: finished before" in out
    assert (first / "export" / "report.json").stat().st_mtime_ns == stamp
    data = json.loads((tmp_path / "runs" / "prompts" / "batch.json").read_text())
    assert [row["state"] for row in data["jobs"]] == ["finished", "finished"]
    begun = [e for e in read_events(second) if e["event"] == "stage started"]
    starts = [(e["stage"], e["step"]) for e in begun]
    assert starts[0] == ("coarse", 0)
    assert len(starts) > 1
    assert ("coarse", 0) not in starts[1:]  # it went on where it was cut off
    alone = child(tmp_path, "run", "a blue mushroom", *words)
    assert alone.wait(900) == 0
    for name in ("coarse/step-000012.safetensors", "fine/step-000006.safetensors"):
        a = read_tensors(tmp_path / "runs" / "a-blue-mushroom" / name)
        b = read_tensors(second / name)
        assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.mark.slow
def test_seeds_make_ranked_runs(tmp_path: Path, small_settings: list[str], monkeypatch) -> None:
    from maquette.common.many.seeds import run_seeds

    monkeypatch.chdir(tmp_path)
    choose(Watching(output="quiet", log="none"))
    choices = Choices(settings=small_settings[1::2], device="cpu", out="seeds")
    run_seeds("a red mushroom", choices, 2)
    data = json.loads((tmp_path / "seeds" / "ranking.json").read_text())
    rows = data["ranking"]
    assert {row["seed"] for row in rows} == {0, 1}
    assert rows[0]["preference"] >= rows[1]["preference"]
    assert replace(choices).out == "seeds"
    with Image.open(tmp_path / "seeds" / "contact.png") as sheet:
        assert sheet.width == 2 * TILE

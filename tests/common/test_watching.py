"""Watching a run: what is told, in which form, how often it is pictured, and that nothing moves."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maquette.common.commands.watched import chosen, watched
from maquette.common.config.reading import build_config
from maquette.common.errors import UserError
from maquette.common.guidance.conditions import Rows
from maquette.common.guidance.judges import Views
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.guidance.wanted import wanted_views
from maquette.common.losses import SDS
from maquette.common.priors.base import Condition, TextEmbedding
from maquette.common.runs import progress
from maquette.common.runs.announce import announce, lines
from maquette.common.runs.folder import Run, open_or_create
from maquette.common.runs.history import read_events, seconds_after, work_of
from maquette.common.runs.progress import Pace, doing, say, stage_progress
from maquette.common.runs.stage import COARSE, FINE
from maquette.common.runs.watching import Watching, choose
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.watch import films, loggers
from maquette.common.watch.curves import curves_png, smoothed
from maquette.common.watch.ends import film_frames, finish_pictures, picture_end
from maquette.common.watch.films import FilmError, evened, mp4, webp, write_film
from maquette.common.watch.growth import (
    SIZE,
    Allowance,
    Growth,
    drop_after,
    pictures,
    read_scalars,
)
from maquette.common.watch.looks import Look, normal_colors


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    progress.preface([])  # what commands of other tests had to say before they failed
    yield
    choose(Watching())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_or_create(build_config("a red mushroom"), str(tmp_path / "runs" / "run"))


class Ball:
    """A `Subject`: red from everywhere, and its normals look along +X."""

    def __init__(self) -> None:
        self.together: list[int] = []

    def pictured(self, cameras: Cameras, resolution: int) -> Look:
        self.together.append(len(cameras))
        shape = (len(cameras), resolution, resolution)
        red, front = torch.zeros(*shape, 3), torch.zeros(*shape, 3)
        red[..., 0], front[..., 0] = 1.0, 1.0
        front[:, 0] = 0.0  # no surface in the first row
        return Look(red, front, torch.full(shape, 0.5))

    def judged(self, cameras: Cameras, step: int) -> Views:
        raise AssertionError("nobody judges here")


def objects(told: str) -> list[dict]:
    return [json.loads(line) for line in told.splitlines()]


# What is told


def test_the_pace_forgets_the_first_step_which_compiles(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = Pace(total=100, start=0, later=60.0)
    assert pace.each is None
    assert pace.told() == ""
    now[0] = 30.0
    pace.at(1)
    assert pace.each == 30.0
    for step in range(2, 12):
        now[0] += 2.0
        pace.at(step)
    assert pace.each == pytest.approx(2.0)
    assert pace.left == pytest.approx(2.0 * 89)
    assert pace.run_left == pytest.approx(2.0 * 89 + 60.0)
    assert pace.told() == "2 s/step  run 3:58 left, stage 2:58 left"


def test_what_follows_is_told_as_unknown_where_it_is(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = Pace(total=11, start=10, later=None)
    now[0] = 5.0
    pace.at(10)  # no step
    assert pace.each is None
    pace.at(11)
    assert pace.run_left is None
    assert "run 0:00+ left" in pace.told()


def test_json_is_one_object_a_line(capsys, run: Run) -> None:
    choose(Watching(output="json"))
    say("hello")
    run.event("something", faces=3)
    run.warn("mind this")
    with stage_progress("coarse", 40, later=5.0) as meter:
        meter.update(0)
        meter.update(1, {"loss": 0.123456789}, Path("a.png"))
        meter.update(2, {"loss": 2.0})
    with doing("export") as tell:
        tell("bake")
    progress.result(Path("x.obj"))
    told = capsys.readouterr()
    assert told.err == ""
    found = objects(told.out)
    assert [each["event"] for each in found] == [
        *("message", "something", "message", "warning"),
        *("progress", "progress", "progress", "progress", "result"),
    ]
    step = found[5]
    assert step["stage"] == "coarse"
    assert (step["step"], step["total"]) == (1, 40)
    assert step["numbers"] == {"loss": 0.123457}
    assert step["preview"] == "a.png"
    assert step["run_seconds_left"] == pytest.approx(step["stage_seconds_left"] + 5.0, rel=1e-2)
    assert found[7]["doing"] == "bake"
    assert found[8]["path"] == "x.obj"
    assert all(isinstance(each["time"], float) for each in found)


def test_quiet_tells_results_and_warnings_alone(capsys, run: Run) -> None:
    choose(Watching(output="quiet"))
    say("hello")
    run.warn("mind this")
    with stage_progress("coarse", 2) as meter:
        meter.update(1, {"loss": 1.0})
    with doing("export") as tell:
        tell("bake")
    progress.result("x.obj")
    told = capsys.readouterr()
    assert told.out == "x.obj\n"
    assert told.err == "warning: mind this\n"


def test_verbose_tells_every_event_and_warnings_once(capsys, run: Run) -> None:
    choose(Watching(verbose=True))
    run.event("checkpoint", stage="coarse", step=5)
    run.warn("mind this")
    told = capsys.readouterr().err.splitlines()
    assert told == ['checkpoint: {"stage": "coarse", "step": 5}', "warning: mind this"]


def test_lines_tell_a_picture_once(capsys) -> None:
    with stage_progress("fine", 2) as meter:
        meter.update(1, {"loss": 1.0}, Path("one.png"))
        meter.update(2, {"loss": 1.0})
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("loss 1  one.png")
    assert second.endswith("loss 1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quiet": True, "as_json": True}, "--quiet goes with neither"),
        ({"previews": -1}, "--previews: expected 0 to 1000"),
        ({"log": "paper"}, "--log: expected auto, tensorboard, wandb or none"),
    ],
)
def test_options_that_do_not_go_together(options, words) -> None:
    plain = {"quiet": False, "as_json": False, "verbose": False, "films": True, "log": "auto"}
    plain["previews"] = None
    assert chosen(**plain) == Watching()
    with pytest.raises(UserError, match=words):
        chosen(**{**plain, **options})


def test_a_command_keeps_its_own_options_beside_the_added_ones() -> None:
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    found = []

    @app.command()
    @watched
    def paint(color: str, coats: int = 1) -> None:
        found.append((color, coats, progress.watching()))

    ended = CliRunner().invoke(app, ["red", "--coats", "2", "--quiet", "--previews", "3"])
    assert ended.exit_code == 0, ended.output
    assert found == [("red", 2, Watching("quiet", previews=3, share=1.0))]
    assert "--no-films" in CliRunner().invoke(app, ["--help"]).output


def test_the_announcement_says_where_what_and_with_whom(run: Run, capsys) -> None:
    announce(run)
    assert capsys.readouterr().err == ""  # what is wrong with the input would come alone
    with stage_progress("coarse", 500):
        pass
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == [
        f"run: {run.folder}  (seed 0, device auto)",
        "stages: 1 of 3 coarse, 500 steps at 64 px; 2 of 3 fine, 150 steps at 512 px; "
        "3 of 3 export",
    ]
    assert told[2:4] == [
        "prior, coarse stage: toybox, sds, guidance 2, 2 views a step",
        "prior, fine stage: toybox, sds, guidance 2 to 1, 2 views a step",
    ]
    clip = build_config("a red mushroom", "dreamfields")
    (judge,) = (line for line in lines(Run(run.folder, clip), (COARSE,), False) if "CLIP" in line)
    assert judge == "prior: CLIP openai/clip-vit-base-patch16, 1 views a step"


def test_each_line_says_which_stage_of_how_many(run: Run, capsys) -> None:
    announce(run)
    with stage_progress("coarse", 500) as meter:
        meter.update(25, {"loss": 1.0})
    with doing("export") as tell:
        tell("bake")
    *_, step, part = capsys.readouterr().err.splitlines()
    assert step.startswith("coarse  25/500  stage 1 of 3  ")
    assert part == "export  stage 3 of 3  bake"
    choose(Watching(output="json"))
    with stage_progress("fine", 2) as meter:
        meter.update(1)
    with stage_progress("invert", 2) as meter:
        meter.update(1)
    told, unnamed = objects(capsys.readouterr().out)
    assert (told["stage_number"], told["stages"]) == (2, 3)
    assert (unnamed["stage_number"], unnamed["stages"]) == (None, None)


def test_the_rest_is_known_from_a_like_run_beside(run: Run) -> None:
    assert seconds_after(run, "coarse") is None
    assert seconds_after(run, "vae") == 0.0
    beside = open_or_create(run.config, str(run.folder.parent / "other"))
    steps = run.config.fine.steps
    beside.event("hand-off", seconds=2.0)
    beside.event(
        "stage finished", stage="fine", seconds=10.0, steps=steps // 2, work=work_of(run, FINE)
    )
    assert seconds_after(run, "coarse") is None  # never exported
    beside.event("exported", seconds={"clean": 1.0, "bake": 3.0})
    assert seconds_after(run, "coarse") == pytest.approx(20.0 + 2.0 + 4.0)
    assert seconds_after(run, "fine") == pytest.approx(4.0)
    other = Run(run.folder, build_config("a cat", overrides=["fine.resolution=256"]))
    assert seconds_after(other, "coarse") is None  # another kind of work
    same = Run(run.folder, build_config("a cat", overrides=["fine.steps=300"]))
    assert seconds_after(same, "coarse") == pytest.approx(40.0 + 2.0 + 4.0)


def test_events_that_were_cut_off_are_left_out(run: Run) -> None:
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"event": "half')
    assert [e["event"] for e in read_events(run.folder)] == ["created"]
    assert read_events(run.folder / "nowhere") == []


# How often it is pictured


def test_an_allowance_spreads_what_it_can_afford() -> None:
    allowance = Allowance(total=1000, most=20, share=0.02)
    taken, clock, spent = [], 0.0, 0.0
    for step in range(1, 1001):
        clock += 0.1
        if allowance.due(step):
            taken.append(step)
            clock += 0.5
            spent += 0.5
            allowance.used(step, 0.5, clock)
    # 100 s of steps, 2 % of them are 2 s: four pictures of half a second.
    assert len(taken) == 4
    assert spent <= 0.02 * 100.0 + 1e-6
    assert taken[0] == 50
    assert min(b - a for a, b in itertools.pairwise(taken)) > 200


@pytest.mark.parametrize(("most", "count"), [(20, 20), (5, 5), (0, 0)])
def test_an_allowance_for_what_costs_nothing(most: int, count: int) -> None:
    allowance = Allowance(total=1000, most=most, share=0.02)
    taken = 0
    for step in range(1, 1001):
        if allowance.due(step):
            taken += 1
            allowance.used(step, 1e-6, step * 0.1)
    assert taken == count


def test_growth_keeps_pictures_and_numbers_and_draws_nothing(run: Run) -> None:
    choose(Watching(log="none"))
    torch.manual_seed(3)
    with Growth(run, "coarse", run.coarse, total=40, start=0) as growth:
        growth._subject = Ball()
        before = torch.get_rng_state()
        paths = [growth.after(step, {"loss": float(step)}) for step in range(1, 41)]
    assert torch.equal(before, torch.get_rng_state())
    taken = [path for path in paths if path is not None]
    assert taken == pictures(run.coarse)
    assert 1 <= len(taken) <= 20
    with Image.open(taken[0]) as grid:
        pixels = np.array(grid)
    assert pixels.shape == (3 * SIZE, 4 * SIZE, 3)  # no prior, no fourth row
    assert tuple(pixels[SIZE // 2, SIZE // 2]) == (255, 0, 0)
    assert tuple(pixels[SIZE + SIZE // 2, SIZE // 2]) == (255, 128, 128)  # +X
    assert tuple(pixels[SIZE, SIZE // 2]) == (255, 255, 255)  # no surface
    assert tuple(pixels[2 * SIZE + 5, 5]) == (128, 128, 128)
    rows = read_scalars(run.coarse)
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[6]["loss"] == 7.0


def test_a_resumed_stage_drops_what_it_makes_again(run: Run) -> None:
    choose(Watching(log="none"))
    with Growth(run, "coarse", run.coarse, total=40, start=0) as growth:
        growth._subject = Ball()
        for step in range(1, 21):
            growth.after(step, {"loss": 1.0})
    first = pictures(run.coarse)[0]
    drop_after(run.coarse, 10)
    assert [row["step"] for row in read_scalars(run.coarse)] == list(range(1, 11))
    assert pictures(run.coarse)[0] == first
    assert all(int(path.stem) <= 10 for path in pictures(run.coarse))


def test_a_picture_that_fails_ends_the_pictures_not_the_run(run: Run, capsys) -> None:
    class Full(Ball):
        def pictured(self, cameras: Cameras, resolution: int) -> Look:
            raise RuntimeError("CUDA out of memory\nand more")

    choose(Watching(log="none"))
    with Growth(run, "coarse", run.coarse, total=4, start=0) as growth:
        growth._subject = Full()
        assert [growth.after(step, {"loss": 1.0}) for step in range(1, 5)] == [None] * 4
    told = capsys.readouterr().err.splitlines()
    assert told == ["warning: no more previews of the coarse stage: CUDA out of memory"]


def test_normals_as_colours() -> None:
    normals = torch.tensor([[[[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.0]]]])
    look = Look(torch.zeros_like(normals), normals, torch.zeros(1, 1, 3))
    expected = [[[[0.5, 0.5, 1.0], [0.5, 0.0, 0.5], [1.0, 1.0, 1.0]]]]
    torch.testing.assert_close(normal_colors(look), torch.tensor(expected))


class Truth:
    """A pixel prior for which the clean image is always one and the same."""

    space, resolution, takes_camera, takes_surface, group = "pixel", 8, False, False, 1

    def __init__(self, image: torch.Tensor) -> None:
        from maquette.common.priors.noise import cosine_schedule

        self.schedule, self.image = cosine_schedule(100), image
        self.encoded: list[int] = []

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        self.encoded.append(len(image))
        return 2.0 * image.permute(0, 3, 1, 2) - 1.0

    def predict_noise(self, x_t, t, condition):
        alpha, sigma = self.schedule.at(t)
        shift = torch.tensor([0.1 if text else 0.0 for text in condition.text.prompts])
        clean = self.encode_image(self.image).expand_as(x_t) + shift.reshape(-1, 1, 1, 1)
        return (x_t - alpha * clean) / sigma


class Empty:
    def rows(self, cameras: Cameras) -> Rows:
        def told(text: str) -> Condition:
            rows = torch.zeros(len(cameras), 1)
            return Condition(TextEmbedding((text,) * len(cameras), {"row": rows}))

        return Rows(told("toy"), told(""))


def test_what_the_prior_wants_is_its_guided_guess() -> None:
    image = torch.rand(1, 8, 8, 3) * 0.5
    loss = SDS(guidance_scale=3.0)
    prior = Truth(image)
    judge = ScoreDistillation(prior, Empty(), loss, 10)  # pyright: ignore
    cameras = orbit(2)
    views = Views(torch.rand(2, 8, 8, 3), cameras, torch.ones(3), lambda: torch.ones(2, 8, 8))
    before = torch.get_rng_state()
    wanted = wanted_views(judge, views, 0)
    assert torch.equal(before, torch.get_rng_state())
    assert wanted is not None
    # x0 is linear in the noise: guidance moves it by 3 times 0.1 in [-1, 1], 0.15 in [0, 1].
    torch.testing.assert_close(wanted, (image + 0.15).expand(2, -1, -1, -1), atol=1e-4, rtol=0)
    assert set(prior.encoded) == {1}  # an autoencoder never holds more than one view
    judge.group = 3
    assert wanted_views(judge, views, 0) is None


class Blind(Truth):
    """A latent prior that nothing decodes."""

    space = "latent"
    asked = 0

    def decode_image(self, x: torch.Tensor) -> None:
        self.asked += 1


def test_a_prior_that_shows_nothing_is_asked_once(run: Run) -> None:
    class Judged(Ball):
        def judged(self, cameras: Cameras, step: int) -> Views:
            count = len(cameras)
            image, opacity = torch.rand(count, 8, 8, 3), torch.ones(count, 8, 8)
            return Views(image, cameras, torch.ones(3), lambda: opacity)

    choose(Watching(log="none"))
    prior = Blind(torch.rand(1, 8, 8, 3))
    with Growth(run, "coarse", run.coarse, total=4, start=0) as growth:
        growth._subject = Judged()
        growth._judge = ScoreDistillation(prior, Empty(), SDS(), 4)  # pyright: ignore
        growth.picture(1)
        growth.picture(4)
    assert prior.asked == 1
    assert growth._judge is None


# Films and curves


def test_films_open_again_frame_by_frame(tmp_path: Path) -> None:
    frames = [np.full((17, 30, 3), value, dtype=np.uint8) for value in (0, 120, 250)]
    (tmp_path / "a.webp").write_bytes(webp(frames))
    with Image.open(tmp_path / "a.webp") as film:
        assert film.n_frames == 3
        for index, frame in enumerate(frames):
            film.seek(index)
            assert abs(int(np.array(film.convert("RGB"))[5, 5, 0]) - int(frame[5, 5, 0])) < 6
    assert evened(frames[0]).shape == (18, 30, 3)
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "a.mp4").write_bytes(mp4(frames, rate=5.0))
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    meta = next(reader)
    assert meta["size"] == (30, 18)
    assert meta["fps"] == 5.0
    values = [np.frombuffer(data, np.uint8).mean() for data in reader]
    assert values == pytest.approx([0, 120, 250], abs=4)


def test_without_ffmpeg_one_line_and_the_other_film(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    frames = [np.zeros((8, 8, 3), dtype=np.uint8)] * 2
    assert write_film(tmp_path / "film", frames) == [tmp_path / "film.webp"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("warning: film.mp4 can't be made (imageio-ffmpeg isn't installed")


def test_an_ffmpeg_that_fails_is_told(monkeypatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: sys.executable)
    with pytest.raises(FilmError, match="ffmpeg: "):
        films.mp4([np.zeros((8, 8, 3), dtype=np.uint8)])
    with pytest.raises(FilmError, match="no frames"):
        films.webp([])


def test_the_ends_are_pictured(run: Run, tmp_path: Path) -> None:
    choose(Watching(log="none"))
    with Growth(run, "fine", run.fine, total=4, start=0) as growth:
        growth._subject = Ball()
        for step in range(1, 5):
            growth.after(step, {"loss": 1.0})
    ball = Ball()
    picture_end(run.fine, ball, 32)
    assert ball.together == [1, 4, 4, 4, 4]  # a surface is found for four views at once
    with Image.open(run.fine / "poster.png") as poster:
        assert poster.size == (64, 64)
    with Image.open(run.fine / "turntable.webp") as film:
        assert (film.size, film.n_frames) in (((32, 32), 16), ((32, 32), 1))  # all of them alike
    with Image.open(run.fine / "strip.png") as strip:
        assert strip.size == (len(pictures(run.fine)) * SIZE, 4 * SIZE)
    frames = film_frames(run)
    assert {frame.shape for frame in frames} == {(2 * SIZE, 4 * SIZE, 3)}
    assert len(frames) > len(pictures(run.fine))
    finish_pictures(run)
    film = run.folder / "growth.webp"
    stamp = film.stat().st_mtime_ns
    finish_pictures(run)
    assert film.stat().st_mtime_ns == stamp
    os.utime(film, ns=(stamp - 10**12, stamp - 10**12))
    finish_pictures(run)  # the stage was gone on with since
    assert film.stat().st_mtime_ns > stamp - 10**12


def test_curves_are_smoothed_without_a_bias() -> None:
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smoothed([1.0, 3.0], keep=0.5) == pytest.approx([1.0, (0.5 * 1 + 3) / 1.5])
    pytest.importorskip("matplotlib")
    rows = [{"step": s, "seconds": 1.0, "loss": 1.0 / s, "gradient": 2.0} for s in range(1, 9)]
    data = curves_png({"coarse": rows, "fine": [{"step": 1, "loss": 3.0}]})
    assert data.startswith(b"\x89PNG")
    assert data == curves_png({"coarse": rows, "fine": [{"step": 1, "loss": 3.0}]})


# Loggers


def test_a_logger_that_is_not_installed_is_one_line(run: Run, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    choose(Watching(log="wandb"))
    logger = loggers.open_logger(run, "coarse", 0)
    logger.numbers(1, {"loss": 1.0})
    told = capsys.readouterr().err.splitlines()
    assert told == ["warning: wandb isn't installed: pip install wandb; left out"]


def test_a_logger_without_its_login_is_one_line(run: Run, monkeypatch, capsys) -> None:
    class Wandb:
        Image = staticmethod(lambda data: data)

        @staticmethod
        def init(**_: object) -> None:
            raise RuntimeError("api_key not configured\n(no-tty)")

    monkeypatch.setitem(sys.modules, "wandb", Wandb)  # type: ignore[arg-type]
    choose(Watching(log="wandb"))
    loggers.open_logger(run, "coarse", 0).numbers(1, {"loss": 1.0})
    told = capsys.readouterr().err.splitlines()
    assert told == ["warning: wandb can't be used (api_key not configured (no-tty)); left out"]


def test_a_logger_that_fails_later_is_left_out(capsys) -> None:
    class Breaking(loggers.Nothing):
        def numbers(self, step, numbers) -> None:
            raise OSError("gone")

    guarded = loggers.Guarded("TensorBoard", Breaking())
    for step in range(3):
        guarded.numbers(step, {"loss": 1.0})
    guarded.close()
    told = capsys.readouterr().err.splitlines()
    assert told == ["warning: TensorBoard failed (gone); it is left out"]


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="not installed")
def test_tensorboard_holds_numbers_and_pictures(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Growth(run, "coarse", run.coarse, total=4, start=0) as growth:
        growth._subject = Ball()
        for step in range(1, 5):
            growth.after(step, {"loss": 1.0 / step})
    board = EventAccumulator(str(run.folder / "tensorboard" / "coarse")).Reload()
    found = {event.step: event.value for event in board.Scalars("loss")}
    assert found == pytest.approx({1: 1.0, 2: 0.5, 3: 1 / 3, 4: 0.25})
    assert board.Images("views")

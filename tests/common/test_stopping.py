"""Being asked to stop: at once where nothing is cut in two, else after the work under way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from maquette.common import stopping
from maquette.common.stopping import Stopped


@pytest.fixture(autouse=True)
def _watched() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    stopping.watch()
    yield
    stopping.unwatch()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_every_signal_has_its_exit_code(number: signal.Signals, code: int) -> None:
    with pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code
    assert not isinstance(caught.value, Exception)  # nothing may take it for a failure


def test_work_ends_first() -> None:
    done = []
    with stopping.finish_first():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("the rest of the step")
        assert stopping.asked()
        with pytest.raises(Stopped):
            stopping.check()
    assert done
    assert stopping.asked()


def test_the_second_time_is_at_once() -> None:
    with stopping.finish_first():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert caught.value.exit_code == 130


def test_after_the_block_a_signal_is_at_once_again() -> None:
    with stopping.finish_first(), stopping.finish_first():
        pass
    assert not stopping.asked()
    stopping.check()
    with pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)


def test_signals_do_again_what_they_did() -> None:
    stopping.unwatch()
    before = signal.getsignal(signal.SIGTERM)
    stopping.watch()
    assert signal.getsignal(signal.SIGTERM) is not before
    with stopping.finish_first():
        os.kill(os.getpid(), signal.SIGTERM)
    stopping.unwatch()
    assert signal.getsignal(signal.SIGTERM) is before
    stopping.check()


def test_what_is_ignored_stays_ignored() -> None:
    """`nohup` starts programs with SIGHUP ignored, and means it."""
    stopping.unwatch()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopping.watch()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stopping.asked()

"""Being asked to stop: Ctrl-C, SIGTERM, a closed terminal.

The first time, work that must not be cut in two ends what it is about (`finish_first`), anything
else stops at once. The second time everything stops at once, the third time without any tidying.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Stopped(BaseException):
    """Someone asked the program to stop. Not an `Exception`: nothing may take it for a failure."""

    def __init__(self, number: int) -> None:
        """number: of the signal that asked."""
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.told = False  # whether the user was told how to go on

    @property
    def exit_code(self) -> int:
        """What a shell expects: 128 and the signal's number."""
        return 128 + self.number


@dataclass
class _State:
    """asked: the last signal, 0 for none; times: how many came. deferred: work ends first; before:
    what the signals did before they were watched."""

    asked: int = 0
    times: int = 0
    deferred: bool = False
    before: dict[int, Any] = field(default_factory=dict)


_state = _State()


def watch() -> None:
    """Let the signals of this process raise `Stopped`, until `unwatch`."""
    unwatch()
    for number in SIGNALS:
        before = signal.getsignal(number)
        if before is not signal.SIG_IGN:  # `nohup` means it
            _state.before[number] = before
            signal.signal(number, _on_signal)


def unwatch() -> None:
    """Let the signals do again what they did before, and forget those that came."""
    for number, before in _state.before.items():
        signal.signal(number, before)
    _state.asked, _state.times, _state.deferred = 0, 0, False
    _state.before.clear()


@contextmanager
def finish_first() -> Iterator[None]:
    """Within the block the first signal only sets what `check` raises; the second one raises."""
    before, _state.deferred = _state.deferred, True
    try:
        yield
    finally:
        _state.deferred = before


def asked() -> bool:
    """Whether a signal waits for the work to end."""
    return _state.asked != 0


def check() -> None:
    """Raise `Stopped` if a signal came within `finish_first`."""
    if _state.asked:
        raise Stopped(_state.asked)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _state.asked, _state.times = number, _state.times + 1
    if _state.times > 2:
        sys.stderr.flush()
        os._exit(128 + number)
    if _state.times == 2 or not _state.deferred:
        raise Stopped(number)

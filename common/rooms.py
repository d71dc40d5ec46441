"""Rows set aside on a GPU for what its own values decide, so that a step need not wait for it.

How many samples lie in occupied cells, how many pixels, faces and silhouettes there are: only the
device knows. The CPU looks it up. Within `Rooms.held` a GPU is not asked; such a thing gets as many
rows as the last steps needed and half as many again, and rows that stay empty name nothing (the
place one past the end). A step that needs more is crowded: it is computed without what does not
fit, and the optimizer leaves it out. What was needed is read where the device is waited for anyway
(`Rooms.settle`), and the next steps get more room, or less.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .device import indices_of, size_of

SPARE = 1024  # rows beyond half as many again, for what is nearly nothing
_held: Rooms | None = None


class Rooms:
    """How many rows each thing of a stage's steps is given.

    crowded: whether something of the step under way did not fit, bool `[]` on the device; None
    where nothing was asked for.
    """

    def __init__(self) -> None:
        self.crowded: Tensor | None = None
        self._rows: dict[Hashable, int] = {}
        self._most: dict[Hashable, Tensor] = {}
        self._left_out: Tensor | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """A step: what is asked of the device within it is given rows instead."""
        global _held
        before, _held = _held, self
        self.crowded = None
        try:
            yield
        finally:
            _held = before

    def take(self, name: Hashable, count: Tensor) -> int:
        """The rows for `count` things (int64 `[]` on the device); the first time it is asked."""
        if name not in self._rows:
            self._rows[name] = _spacious(size_of(count))
        rows, over = self._rows[name], count > self._rows[name]
        self.crowded = over if self.crowded is None else self.crowded | over
        known = self._most.get(name)
        self._most[name] = count if known is None else torch.maximum(known, count)
        return rows

    def left_out(self, crowded: Tensor) -> None:
        """Count a step that was left out, if it is `crowded`."""
        one = crowded.long()
        self._left_out = one if self._left_out is None else self._left_out + one

    def settle(self) -> int:
        """Wait for the device and make room for what the last steps needed; steps left out."""
        if not self._most:
            return 0
        names = list(self._most)
        missed = torch.zeros_like(self._most[names[0]])
        missed = missed if self._left_out is None else self._left_out
        *needed, left_out = torch.stack([*self._most.values(), missed]).cpu().tolist()
        for name, count in zip(names, needed, strict=True):
            rows, wanted = self._rows[name], _spacious(count)
            if 1.2 * count > rows or rows > 2 * wanted:
                self._rows[name] = wanted
        self._most.clear()
        self._left_out = None
        return left_out


def _spacious(count: int) -> int:
    return count + count // 2 + SPARE


def now() -> Rooms | None:
    """What gives out rows within a step on a GPU; None where sizes are looked up."""
    return _held


@contextmanager
def asking() -> Iterator[None]:
    """Look sizes up within the block, for what can't do with rows that stay empty."""
    global _held
    before, _held = _held, None
    try:
        yield
    finally:
        _held = before


def places_of(mask: Tensor, name: Hashable) -> Tensor:
    """Where a flat mask `[N]` is true, int64 `[M]`, ascending.

    Within a step on a GPU `[K]`, as many as there is room for, the empty ones N. name: of what the
    mask says, for which rows are set aside.
    """
    size = mask.shape[0]
    if _held is None or size == 0:
        return indices_of(mask)
    order = mask.cumsum(0)
    rows = min(_held.take(name, order[-1]), size)
    return nth_places(order, rows)


def nth_places(order: Tensor, rows: int) -> Tensor:
    """Where a running count `[N]` first reaches 1, 2, ... `rows`, int64; N where it never does."""
    return torch.searchsorted(order, torch.arange(1, rows + 1, device=order.device))

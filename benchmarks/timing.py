"""How long work takes: the least of several calls, which is what nothing else disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def best(work: Callable[[], object], repeats: int = 7) -> float:
    """The least milliseconds of several calls; the first one compiles and does not count."""
    return best_in_turns({"": work}, repeats)[""]


def best_in_turns(
    variants: Mapping[str, Callable[[], object]], repeats: int = 7
) -> dict[str, float]:
    """`best` of each variant; they take turns, so that all meet the same machine."""
    least = dict.fromkeys(variants, float("inf"))
    for repeat in range(repeats + 1):
        for name, work in variants.items():
            start = time.perf_counter()
            work()
            if repeat:
                least[name] = min(least[name], 1e3 * (time.perf_counter() - start))
    return least

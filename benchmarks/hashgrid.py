"""How much faster the compiled hash grid is than plain torch: both are timed in one run.

`python benchmarks/hashgrid.py` prints a Markdown table, one row a grid: the paper's, and the one
that the default configuration trains on a CPU.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from anywhere

from common.hashgrid import HashGridConfig, growth_for, numba_twin, reference, table_offsets

POINTS = 100_000
ROUNDS = 7
GRIDS = {
    "16 x 2, 2^19, 16 to 4096": HashGridConfig(),
    "8 x 2, 2^15, 16 to 256": HashGridConfig(
        levels=8, log2_entries=15, growth=growth_for(8, 16, 256)
    ),
}


def main() -> None:
    """Print the table."""
    print(f"Hash grid, {POINTS} random points, {torch.get_num_threads()} threads, medians in ms\n")
    print("| grid (levels x features, entries, resolution) | torch | numba | torch / numba |")
    print("|---|---|---|---|")
    for name, config in GRIDS.items():
        print(row(name, config))


def row(name: str, config: HashGridConfig) -> str:
    """Markdown row of one grid: forward + backward (forward alone in brackets), and the ratio."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(POINTS, 3, generator=generator)
    shape = (table_offsets(config)[-1], config.features)
    tables = (0.1 * torch.randn(shape, generator=generator)).requires_grad_()
    cotangent = torch.randn(POINTS, config.levels * config.features, generator=generator)

    times: dict[str, list[tuple[float, float]]] = {"torch": [], "numba": []}
    encoders = {"torch": reference.encode, "numba": numba_twin.encode}
    for _ in range(ROUNDS + 1):  # taken in turns, so that both meet the same machine
        for twin, encoder in encoders.items():
            tables.grad = None
            forward, out = timed(lambda encoder=encoder: encoder(x, tables, config))
            backward, _ = timed(lambda out=out: out.backward(cotangent))
            times[twin].append((forward, forward + backward))
    medians = {
        twin: [statistics.median(column) for column in zip(*rounds[1:], strict=True)]
        for twin, rounds in times.items()  # the first round compiles
    }
    cells = [f"{1e3 * both:.1f} ({1e3 * forward:.1f})" for forward, both in medians.values()]
    ratio = medians["torch"][1] / medians["numba"][1]
    return f"| {name} | {' | '.join(cells)} | {ratio:.1f} |"


def timed(work: Callable[[], torch.Tensor | None]) -> tuple[float, torch.Tensor]:
    """Seconds that `work` takes, and its result (an empty tensor for none)."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return seconds, torch.empty(0) if result is None else result


if __name__ == "__main__":
    main()

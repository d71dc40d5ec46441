"""How much faster the compiled hash grid is than plain torch: both are timed in one run.

    python benchmarks/hashgrid.py

One row a grid: the paper's, and one as small as the default configuration trains on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from results import table, write_section

from maquette.common.fields.hashgrid import HashGridConfig, numba_twin, reference, table_offsets

POINTS = 100_000
ROUNDS = 9
GRIDS = {
    "16 x 2, 2^19, 16 to 4096": HashGridConfig(),
    "8 x 2, 2^15, 16 to 256": HashGridConfig(
        levels=8, log2_entries=15, base_resolution=16, finest_resolution=256
    ),
}


def main() -> None:
    """Time, print, write."""
    header = ["levels x features, entries, resolutions", "torch", "numba", "torch / numba"]
    rows = [row(name, config) for name, config in GRIDS.items()]
    body = (
        f"Forward and backward on {POINTS} random points, forward alone in brackets; best of "
        f"{ROUNDS} rounds in turns, in ms.\n\n{table(header, rows)}"
    )
    print(body)
    write_section("hashgrid.py", body)


def row(name: str, config: HashGridConfig) -> list[str]:
    """Cells of one grid: forward + backward (forward alone in brackets), and the ratio."""
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
    best = {  # the least of several is what the machine can do when nothing else disturbs it
        twin: [min(column) for column in zip(*rounds[1:], strict=True)]
        for twin, rounds in times.items()  # the first round compiles
    }
    cells = [f"{1e3 * both:.1f} ({1e3 * forward:.1f})" for forward, both in best.values()]
    ratio = best["torch"][1] / best["numba"][1]
    return [name, *cells, f"{ratio:.1f}"]


def timed(work: Callable[[], torch.Tensor | None]) -> tuple[float, torch.Tensor]:
    """Seconds that `work` takes, and its result (an empty tensor for none)."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return seconds, torch.empty(0) if result is None else result


if __name__ == "__main__":
    main()

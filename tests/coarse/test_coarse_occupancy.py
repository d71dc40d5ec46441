"""The occupancy grid: cells are marked where there is something, and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor

from maquette.coarse import occupancy as occupancy_module
from maquette.coarse.occupancy import Occupancy
from maquette.common.config.models import OccupancyConfig
from maquette.common.scene.cameras import orbit

CELLS, SAMPLES = 16, 32
CONFIG = OccupancyConfig(resolution=CELLS, start=1.0, decay=0.6, every=4, threshold=0.01)


def ball(centre: tuple[float, float, float], radius: float = 0.5, density: float = 50.0):
    def at(points: Tensor) -> Tensor:
        return density * ((points - torch.tensor(centre)).norm(dim=-1) < radius).float()

    return at


def cells_of(centre: tuple[float, float, float], radius: float = 0.5) -> tuple[Tensor, Tensor]:
    """Cells wholly inside a ball, and cells wholly outside, bool `[CELLS] * 3` by x, y, z."""
    line = (torch.arange(CELLS) + 0.5) * (2 / CELLS) - 1
    middle = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)
    distance = (middle - torch.tensor(centre)).norm(dim=-1)
    reach = 3**0.5 / CELLS
    return distance < radius - reach, distance > radius + reach


def updated(occupancy: Occupancy, density, steps: range) -> Tensor:
    for step in steps:
        occupancy.update(step, density)
    return occupancy.estimator.binaries[0]


def test_nothing_is_skipped_before_it_was_looked_at() -> None:
    occupancy = Occupancy(CONFIG, SAMPLES)
    assert bool(occupancy.estimator.binaries.all())
    assert occupancy.step_size == 2 / SAMPLES


def test_cells_of_a_ball_are_marked_in_the_right_place() -> None:
    centre = (0.3, -0.2, 0.1)
    marked = updated(Occupancy(CONFIG, SAMPLES), ball(centre), range(61))
    inside, outside = cells_of(centre)
    assert int(inside.sum()) > 50
    assert bool(marked[inside].all())
    assert not bool(marked[outside].any())


def test_a_ball_that_moves_is_followed_after_the_first_steps_too() -> None:
    occupancy = Occupancy(CONFIG, SAMPLES)
    updated(occupancy, ball((0.4, 0, 0), 0.4), range(65))
    marked = updated(occupancy, ball((-0.4, 0, 0), 0.4), range(65, 400))
    inside, outside = cells_of((-0.4, 0, 0), 0.4)
    assert bool(marked[inside].all())
    assert not bool(marked[outside].any())


def test_the_grid_is_only_looked_at_every_few_steps() -> None:
    occupancy = Occupancy(CONFIG, SAMPLES)
    calls: list[int] = []

    def density(points: Tensor) -> Tensor:
        calls.append(points.shape[0])
        return torch.zeros(points.shape[0])

    updated(occupancy, density, range(9))
    assert calls == [CELLS**3] * 3  # steps 0, 4 and 8, all cells


def test_cells_are_asked_a_part_at_a_time(monkeypatch) -> None:
    torch.manual_seed(0)
    whole = updated(Occupancy(CONFIG, SAMPLES), ball((0.3, 0, 0)), range(1))
    monkeypatch.setattr(occupancy_module, "AT_ONCE", 1000)
    calls: list[int] = []
    torch.manual_seed(0)

    def density(points: Tensor) -> Tensor:
        calls.append(points.shape[0])
        return ball((0.3, 0, 0))(points)

    parted = updated(Occupancy(CONFIG, SAMPLES), density, range(1))
    assert calls == [1000] * 4 + [96]
    assert torch.equal(parted, whole)


def test_the_threshold_is_the_opacity_of_one_step() -> None:
    """Half the space just above the threshold's density, half just below it."""
    just = CONFIG.threshold * SAMPLES / 2

    def density(points: Tensor) -> Tensor:
        side = torch.where(points[:, 0] > 0, 1.1 * just, 0.9 * just)
        # A dense corner keeps the mean above the threshold: nerfacc takes the smaller of the two.
        return torch.where((points > 0.75).all(dim=-1), 1000.0, side)

    marked = updated(Occupancy(CONFIG, SAMPLES), density, range(61))
    assert bool(marked[CELLS // 2 :].all())
    assert not bool(marked[: CELLS // 2].any())


def test_samples_lie_in_marked_cells_and_jitter_moves_them_by_less_than_a_step() -> None:
    occupancy = Occupancy(CONFIG, SAMPLES)
    marked = updated(occupancy, ball((0, 0, 0)), range(61))
    origins, directions = (r.reshape(-1, 3) for r in orbit(2).rays(8, 8))
    for jitter in (False, True):
        samples = occupancy.sample(origins, directions, jitter)
        assert len(samples) > 100
        points = (
            origins[samples.ray_indices]
            + samples.midpoints[:, None] * directions[samples.ray_indices]
        )
        cell = ((points + 1) * CELLS / 2).long()
        assert float(marked[cell[:, 0], cell[:, 1], cell[:, 2]].float().mean()) > 0.999
        steps = samples.t_starts / occupancy.step_size
        whole = float((steps - steps.round()).abs().max()) < 1e-3
        assert whole != jitter
    one, two = (occupancy.sample(origins, directions, True).t_starts for _ in range(2))
    assert one.shape != two.shape or not torch.equal(one, two)


def test_a_checkpoint_holds_all_of_it() -> None:
    occupancy = Occupancy(CONFIG, SAMPLES)
    updated(occupancy, ball((0.3, 0, 0)), range(40))
    again = Occupancy(CONFIG, SAMPLES)
    again.load_state_dict(occupancy.state_dict())
    torch.manual_seed(1)
    one = updated(occupancy, ball((0.3, 0, 0)), range(40, 120)).clone()
    torch.manual_seed(1)
    assert torch.equal(updated(again, ball((0.3, 0, 0)), range(40, 120)), one)
    assert torch.equal(again.estimator.occs, occupancy.estimator.occs)

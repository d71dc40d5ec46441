"""Schedules over steps, timesteps, weights and the noise schedules, against their formulas."""

import math

import pytest
import torch

from maquette.common.guidance.timesteps import dreamtime_timesteps, sample_timesteps, sqrt_annealing
from maquette.common.losses import weight
from maquette.common.priors.noise import cosine_schedule
from maquette.common.schedules import step_schedule, timestep_range
from tests.reference.noise_schedules import flow_schedule, linear_schedule, scaled_linear_schedule


def test_step_schedule_is_linear_between_points_and_constant_outside() -> None:
    points = [(0, 10.0), (5000, 1000.0), (6000, 500.0)]
    expected = {-1: 10.0, 0: 10.0, 2500: 505.0, 5000: 1000.0, 5500: 750.0, 6000: 500.0, 9999: 500.0}
    assert {step: step_schedule(points, step) for step in expected} == expected
    assert step_schedule(3, 17) == 3.0
    assert step_schedule([(100, 2.0)], 0) == 2.0


@pytest.mark.parametrize("points", [[], [(5, 1.0), (5, 2.0)], [(5, 1.0), (4, 2.0)]])
def test_step_schedule_refuses_steps_that_do_not_grow(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="points"):
        step_schedule(points, 0)


def test_timestep_range_anneals_and_is_checked() -> None:
    assert timestep_range(0.02, [(0, 0.98), (100, 0.5)], 50) == pytest.approx((0.02, 0.74))
    with pytest.raises(ValueError, match=r"0\.6 and 0\.5 at step 100"):
        timestep_range(0.6, [(0, 0.98), (100, 0.5)], 100)
    with pytest.raises(ValueError, match="t_max"):
        timestep_range(0.0, 1.1, 0)


def test_timesteps_fill_the_range_evenly_and_repeat_with_the_seed() -> None:
    t = sample_timesteps(1000, 0.02, 0.98, 200_000, torch.Generator().manual_seed(3))
    assert (t.dtype, int(t.min()), int(t.max())) == (torch.int64, 20, 980)
    counts = torch.bincount(t, minlength=1000)[20:981].double()
    chi2 = float(((counts - 200_000 / 961) ** 2 / (200_000 / 961)).sum())
    assert abs(chi2 - 960) < 5 * math.sqrt(2 * 960)
    again = sample_timesteps(1000, 0.02, 0.98, 200_000, torch.Generator().manual_seed(3))
    assert torch.equal(t, again)


def test_timesteps_stay_inside_the_schedule() -> None:
    t = sample_timesteps(10, 1.0, 1.0, 5, torch.Generator())
    assert t.tolist() == [9] * 5
    assert sample_timesteps(1000, 0.5, 0.5, 2, torch.Generator()).tolist() == [500, 500]


def test_hifa_annealing() -> None:
    assert [sqrt_annealing(i, 100) for i in (0, 25, 100, 200)] == pytest.approx(
        [0.98, 0.64, 0.30, 0.30]
    )
    with pytest.raises(ValueError, match="steps"):
        sqrt_annealing(0, 0)


def test_dreamtime_never_grows_and_spends_time_by_weight() -> None:
    schedule, steps = scaled_linear_schedule(1000), 20_000
    t = dreamtime_timesteps(schedule, steps)
    assert t.shape == (steps,)
    assert bool((t[1:] <= t[:-1]).all())
    assert (int(t[0]), int(t[-1]) < 300) == (980, True)
    w = torch.zeros(1000, dtype=torch.float64)
    for i in range(20, 981):  # the formula again, one timestep at a time
        bump = math.exp(-((i - 800) ** 2) / (2 * 300**2)) if i > 800 else 1.0
        bump = math.exp(-((i - 500) ** 2) / (2 * 100**2)) if i < 500 else bump
        w[i] = float(schedule.sigma[i] / schedule.alpha[i]) * bump
    w /= w.sum()
    for level in (900, 800, 600, 500, 400):
        spent = float((t >= level).double().mean())
        assert spent == pytest.approx(float(w[level:].sum()), abs=2e-3)


def test_dreamtime_refuses_levels_without_signal() -> None:
    with pytest.raises(ValueError, match="t_max"):
        dreamtime_timesteps(flow_schedule(100), 10, t_max=1.0)
    assert bool(torch.isfinite(dreamtime_timesteps(flow_schedule(100), 10).float()).all())
    with pytest.raises(ValueError, match="steps"):
        dreamtime_timesteps(flow_schedule(100), 0)


def test_weights() -> None:
    alpha, sigma = torch.tensor([0.8]), torch.tensor([0.6])
    values = [float(weight(kind, alpha, sigma)) for kind in ("sigma2", "one", "alpha_sigma")]
    assert values == pytest.approx([0.36, 1.0, 0.48])
    # "signal" turns a difference of noises into one of clean images.
    x, e, e_hat = torch.tensor([0.3]), torch.tensor([1.1]), torch.tensor([-0.4])
    x0_hat = (alpha * x + sigma * e - sigma * e_hat) / alpha
    assert float(weight("signal", alpha, sigma) * (e_hat - e)) == pytest.approx(float(x - x0_hat))


@pytest.mark.parametrize(
    ("name", "ours", "arguments"),
    [
        ("linear", linear_schedule, {"beta_start": 1e-4, "beta_end": 0.02}),
        ("scaled_linear", scaled_linear_schedule, {"beta_start": 0.00085, "beta_end": 0.012}),
        ("squaredcos_cap_v2", cosine_schedule, {}),
    ],
)
@pytest.mark.parametrize("count", [1000, 50])
def test_diffusion_schedules_are_those_of_diffusers(name, ours, arguments, count) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs = DDPMScheduler(num_train_timesteps=count, beta_schedule=name, **arguments)
    schedule = ours(count)
    assert len(schedule) == count
    torch.testing.assert_close(schedule.alpha**2, theirs.alphas_cumprod, rtol=2e-4, atol=1e-7)
    torch.testing.assert_close(schedule.alpha**2 + schedule.sigma**2, torch.ones(count))
    assert bool((schedule.sigma[1:] > schedule.sigma[:-1]).all())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_schedule_is_that_of_diffusers(shift: float) -> None:
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    schedule = flow_schedule(1000, shift)
    torch.testing.assert_close(schedule.sigma.flip(0), theirs.sigmas[:1000])
    torch.testing.assert_close(schedule.alpha + schedule.sigma, torch.ones(1000))
    with pytest.raises(ValueError, match="shift"):
        flow_schedule(10, 0.0)

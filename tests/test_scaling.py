"""Laws that are known, and what can be known of any law: no published point is needed here.

benchmarks/scaling_fit.py holds the fit to the published points, from a file that you give it.
"""

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from x1 import scaling
from x1.scaling import Floats, ScalingLaw
from x1.text import LANGUAGES, UserError, set_language

Runs = tuple[Floats, Floats, Floats]

SMALL = ScalingLaw(E=0.7, A=30.0, B=60.0, alpha=0.35, beta=0.33)
LAWS = [scaling.HOFFMANN, scaling.BESIROGLU, SMALL]
N_GRID = np.geomspace(2e4, 1e6, 5)
D_GRID = np.geomspace(2.5e5, 8e6, 6)


def runs_of(
    law: ScalingLaw,
    sizes: Floats = N_GRID,
    tokens: Floats = D_GRID,
    noise: float = 0,
    seed: int = 0,
) -> Runs:
    """Every size with every number of tokens; noise is the standard deviation of ln loss."""
    N, D = np.array(list(product(sizes, tokens))).T
    scatter = noise * np.random.default_rng(seed).standard_normal(len(N))
    return N, D, np.array([law.predict(*nd) for nd in zip(N, D, strict=True)]) * np.exp(scatter)


def five(law: ScalingLaw) -> list[float]:
    return [law.E, law.A, law.B, law.alpha, law.beta]


@pytest.fixture(scope="module")
def noisy() -> Runs:
    return runs_of(SMALL, noise=0.01, seed=3)


@pytest.fixture(scope="module")
def fitted(noisy: Runs) -> ScalingLaw:
    return scaling.fit(*noisy)


# ---- The objective, against torch


def torch_objective(theta: torch.Tensor, runs: Runs, delta: float, reduction: str) -> torch.Tensor:
    x, y, target = (torch.tensor(column).log() for column in runs)
    a, b, e, alpha, beta = theta
    predicted = torch.logsumexp(torch.stack([a - alpha * x, b - beta * y, e.expand_as(x)]), dim=0)
    return torch.nn.functional.huber_loss(predicted, target, reduction=reduction, delta=delta)


def torch_fit(start: Floats, runs: Runs, reduction: str = "sum", **tolerances: float) -> Floats:
    """Where torch's L-BFGS ends, with its default tolerances unless others are given."""
    theta = torch.tensor(start, requires_grad=True)
    solver = torch.optim.LBFGS([theta], max_iter=5000, line_search_fn="strong_wolfe", **tolerances)

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value = torch_objective(theta, runs, 1e-3, reduction)
        value.backward()
        return value

    solver.step(closure)
    return theta.detach().numpy()


@pytest.mark.parametrize("delta", [1e-3, 1e-2, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_objective_and_gradient_are_torchs(noisy: Runs, delta: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    theta = scaling.parameters(SMALL) + draw.normal(0, [0.5, 0.5, 0.2, 0.05, 0.05])
    by_torch = torch.tensor(theta, requires_grad=True)
    value = torch_objective(by_torch, noisy, delta, "sum")
    value.backward()
    assert scaling.objective(theta, *noisy, delta) == pytest.approx(value.item(), rel=1e-12)
    assert by_torch.grad is not None
    assert scaling.gradient(theta, *noisy, delta) == pytest.approx(by_torch.grad.numpy(), rel=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 0.3])
def test_gradient_is_that_of_finite_differences(noisy: Runs, delta: float) -> None:
    theta = scaling.parameters(SMALL) + np.array([0.3, -0.2, 0.1, 0.02, -0.03])
    steps = 1e-6 * np.eye(5)
    slopes = [
        (scaling.objective(theta + h, *noisy, delta) - scaling.objective(theta - h, *noisy, delta))
        / 2e-6
        for h in steps
    ]
    assert scaling.gradient(theta, *noisy, delta) == pytest.approx(slopes, rel=1e-5)


def test_a_law_and_its_parameters_are_one(noisy: Runs) -> None:
    theta = [math.log(30), math.log(60), math.log(0.7), 0.35, 0.33]
    assert scaling.objective(SMALL, *noisy) == scaling.objective(theta, *noisy)
    assert len(scaling.PARAMETERS) == len(scaling.parameters(SMALL)) == 5


def test_residuals_are_observed_less_predicted(noisy: Runs) -> None:
    N, D, loss = noisy
    for n, d, observed, residual in zip(N, D, loss, scaling.residuals(SMALL, *noisy), strict=True):
        assert SMALL.predict(n, d) * math.exp(residual) == pytest.approx(observed, rel=1e-12)


# ---- The fit


def test_the_starts_are_the_published_ones() -> None:
    grid = scaling.starts()
    assert grid.shape == (4500, 5) and len(np.unique(grid, axis=0)) == 4500
    amplitudes, floors, exponents = (
        [0, 5, 10, 15, 20, 25],
        [-1, -0.5, 0, 0.5, 1],
        [0, 0.5, 1, 1.5, 2],
    )
    columns = [np.unique(column).tolist() for column in grid.T]
    assert columns == [amplitudes, amplitudes, floors, exponents, exponents]


@pytest.mark.parametrize("law", LAWS)
def test_points_of_a_law_give_the_law(law: ScalingLaw) -> None:
    scale = 1000 if law.B > 100 else 1  # the published laws at the sizes they were made for
    found = scaling.fit(*runs_of(law, scale * N_GRID, scale * D_GRID))
    assert five(found) == pytest.approx(five(law), rel=1e-6)


def test_the_fit_is_at_the_bottom(noisy: Runs, fitted: ScalingLaw) -> None:
    """By its gradient, against the truth, and against another solver from the truth and from it."""
    least = scaling.objective(fitted, *noisy)
    assert np.abs(scaling.gradient(fitted, *noisy)).max() < 1e-8
    assert least < scaling.objective(SMALL, *noisy)
    tight = {"tolerance_grad": 1e-13, "tolerance_change": 1e-16}
    for start in (SMALL, fitted):
        end = torch_fit(scaling.parameters(start), noisy, **tight)
        assert scaling.objective(end, *noisy) >= least * (1 - 1e-9)
    assert scaling.objective(end, *noisy) == pytest.approx(least, rel=1e-9)


def test_no_start_ends_lower(noisy: Runs, fitted: ScalingLaw) -> None:
    least = scaling.objective(fitted, *noisy)
    draw = np.random.default_rng(5)
    for start in draw.permutation(scaling.starts())[:40]:
        end = torch_fit(start, noisy)
        assert scaling.objective(end, *noisy) >= least * (1 - 1e-9)


def test_the_order_of_the_runs_does_not_matter(noisy: Runs, fitted: ScalingLaw) -> None:
    order = np.random.default_rng(1).permutation(len(noisy[0]))
    shuffled = scaling.fit(*(column[order] for column in noisy))
    assert five(shuffled) == pytest.approx(five(fitted), rel=1e-5)


def test_other_units_give_the_same_law(noisy: Runs, fitted: ScalingLaw) -> None:
    """Millions of parameters, thousands of tokens and bits, put back into the old units."""
    N, D, loss = noisy
    other = scaling.fit(N / 1e6, D / 1e3, loss / math.log(2))
    back = [
        other.E * math.log(2),
        other.A * math.log(2) * 1e6**other.alpha,
        other.B * math.log(2) * 1e3**other.beta,
        other.alpha,
        other.beta,
    ]
    assert back == pytest.approx(five(fitted), rel=1e-4)


def test_every_run_twice_gives_the_same_law(noisy: Runs, fitted: ScalingLaw) -> None:
    twice = scaling.fit(*(np.tile(column, 2) for column in noisy))
    assert five(twice) == pytest.approx(five(fitted), rel=1e-5)


def test_a_law_without_a_floor_is_found_to_have_none() -> None:
    law = ScalingLaw(E=1e-12, A=30, B=60, alpha=0.35, beta=0.33)
    runs = runs_of(law, noise=0.002, seed=2)
    found = scaling.fit(*runs)
    assert found.E < 0.05
    assert [found.alpha, found.beta] == pytest.approx([0.35, 0.33], abs=0.03)
    laws = scaling.bootstrap(*runs, resamples=20, law=found)
    assert np.isfinite([law.predict(2e6, 2e7) for law in laws]).all()


# ---- Known ways to get it wrong


def best_of_torch(runs: Runs, reduction: str = "sum", **tolerances: float) -> float:
    """The objective where the best of 40 of the starts ends, by torch's L-BFGS."""
    chosen = np.random.default_rng(0).permutation(scaling.starts())[:40]
    ends = [torch_fit(start, runs, reduction, **tolerances) for start in chosen]
    return min(scaling.objective(end, *runs) for end in ends)


def test_averaging_the_objective_stops_a_solver_early(noisy: Runs, fitted: ScalingLaw) -> None:
    """The same solver, the same starts, the same default tolerances: the sum arrives."""
    least = scaling.objective(fitted, *noisy)
    assert best_of_torch(noisy) == pytest.approx(least, rel=1e-4)
    assert best_of_torch(noisy, "mean") > 1.2 * least


def test_a_loose_tolerance_stops_it_early_too(noisy: Runs, fitted: ScalingLaw) -> None:
    loose = best_of_torch(noisy, tolerance_grad=1e-5, tolerance_change=1e-5)
    assert loose > 2 * scaling.objective(fitted, *noisy)


def test_one_start_is_not_enough() -> None:
    """From alpha = 2 and a = 0 the term in N has no gradient left at these sizes."""
    runs = runs_of(scaling.BESIROGLU, 1000 * N_GRID, 1000 * D_GRID, noise=0.005)
    best, lost = scaling.fit(*runs), scaling.fit(*runs, start=[0, 5, 0, 2, 0.5])
    assert scaling.objective(lost, *runs) > 10 * scaling.objective(best, *runs)


def test_a_large_delta_lets_a_few_wrong_runs_decide() -> None:
    N, D, loss = runs_of(SMALL, noise=0.003, seed=4)
    loss[[13, 20]] *= 1.15

    def off(delta: float) -> float:
        law = scaling.fit(N, D, loss, delta)
        return abs(law.predict(2e7, 1.6e8) / SMALL.predict(2e7, 1.6e8) - 1)

    assert off(1e-3) < 0.02 < 0.1 < off(1.0)


def test_runs_that_no_law_holds_for_move_it_with_any_delta() -> None:
    """Large models after few tokens: alone at their end of D, they are what B is read from."""
    clean = runs_of(SMALL, noise=0.003, seed=4)
    N, D = np.array([[3e5, 6e5, 1e6, 2e6], [5e4, 5e4, 6e4, 6e4]])
    wrong = [1.3 * SMALL.predict(*nd) for nd in zip(N, D, strict=True)]
    mixed = [np.append(a, b) for a, b in zip(clean, (N, D, wrong), strict=True)]
    kept, moved = scaling.fit(*clean), scaling.fit(*mixed)
    assert abs(kept.B / SMALL.B - 1) < 0.3
    assert moved.B > 1.5 * kept.B


# ---- Intervals


def test_bootstrap_is_the_fit_of_each_resample(noisy: Runs, fitted: ScalingLaw) -> None:
    laws = scaling.bootstrap(*noisy, resamples=3, seed=7, law=fitted)
    draws = scaling._draws(noisy, 3, np.random.default_rng(7))
    for law, draw in zip(laws, draws, strict=True):
        again = tuple(column[draw] for column in noisy)
        best = scaling.objective(scaling.fit(*again), *again)
        assert scaling.objective(law, *again) == pytest.approx(best, rel=1e-7)


def test_bootstrap_repeats_with_its_seed(noisy: Runs, fitted: ScalingLaw) -> None:
    first, same, other = (
        scaling.bootstrap(*noisy, resamples=4, seed=seed, law=fitted) for seed in (1, 1, 2)
    )
    assert first == same != other and len(first) == 4


def test_intervals_cover_what_they_should() -> None:
    """24 noisy ladders: the true law, and one new, larger run of each, are inside most times."""
    N, D, covered_E, covered_run, widths = 2e6, 1.6e7, 0, 0, []
    for seed in range(24):
        runs = runs_of(SMALL, noise=0.005, seed=100 + seed)
        law = scaling.fit(*runs, start=scaling.parameters(SMALL))
        laws = scaling.bootstrap(*runs, resamples=60, law=law)
        low, high = scaling.interval([law.E for law in laws])
        covered_E += low <= SMALL.E <= high
        scatter = math.exp(0.005 * np.random.default_rng(500 + seed).standard_normal())
        low, high = scaling.predict_interval(laws, N, D, scaling.residuals(law, *runs))
        covered_run += low <= SMALL.predict(N, D) * scatter <= high
        widths.append(math.log(high / low))
    # A true coverage of 90%, a little under the nominal 95%, gives 19 or more of 24 with p = 0.97.
    assert covered_E >= 19 and covered_run >= 19
    assert np.median(widths) < 0.08  # not by being wide: 8 standard deviations of one run


def test_the_interval_of_a_run_holds_the_scatter_of_runs() -> None:
    """With one law and no doubt about it, what is left is its residuals, widened."""
    scatter = np.linspace(-0.02, 0.02, 201)
    low, high = scaling.predict_interval([SMALL], 1e6, 1e7, scatter)
    wide = math.exp(0.95 * 0.02 * math.sqrt(201 / 196))
    middle = SMALL.predict(1e6, 1e7)
    assert [low, high] == pytest.approx([middle / wide, middle * wide], rel=1e-9)
    assert scaling.predict_interval([SMALL], 1e6, 1e7, [0]) == pytest.approx((middle, middle))


def test_a_run_is_less_certain_than_the_curve(noisy: Runs, fitted: ScalingLaw) -> None:
    laws = scaling.bootstrap(*noisy, resamples=50, law=fitted)
    curve = scaling.predict_interval(laws, 1e6, 8e6, [0])
    run = scaling.predict_interval(laws, 1e6, 8e6, scaling.residuals(fitted, *noisy))
    far = scaling.predict_interval(laws, 1e8, 8e8, [0])
    assert run[0] < curve[0] < curve[1] < run[1]
    assert far[1] - far[0] > curve[1] - curve[0]


def test_interval_is_the_middle_of_the_values() -> None:
    assert scaling.interval(range(101), 0.9) == pytest.approx((5, 95))
    assert scaling.interval(np.arange(1001)) == pytest.approx((25, 975))
    assert scaling.interval([3.0]) == (3.0, 3.0)


# ---- The optimum


@pytest.mark.parametrize("C", [1e15, 1.5e18, 5.76e23])
@pytest.mark.parametrize("law", LAWS)
def test_optimal_is_the_best_of_the_budgets_line(law: ScalingLaw, C: float) -> None:
    N, D = law.optimal(C)
    assert 6 * math.prod((N, D)) == pytest.approx(C, rel=1e-12)
    tried = N * np.geomspace(0.01, 100, 200_001)
    losses = law.E + law.A / tried**law.alpha + law.B / (C / 6 / tried) ** law.beta
    assert tried[losses.argmin()] == pytest.approx(N, rel=1e-3)
    assert law.predict(N, D) <= losses.min() * (1 + 1e-15)


def test_overtraining_costs_what_the_two_losses_differ_by() -> None:
    C = 1.5e18
    best, _ = SMALL.optimal(C)
    assert SMALL.overtraining_nats(best, C) == pytest.approx(0, abs=1e-12)
    for factor in (0.1, 0.5, 2, 10):
        nats = SMALL.overtraining_nats(factor * best, C)
        assert nats > 0
        loss = SMALL.predict(factor * best, C / 6 / (factor * best))
        assert SMALL.predict(*SMALL.optimal(C)) + nats == pytest.approx(loss, rel=1e-12)


# ---- Repeats


def test_one_epoch_is_worth_itself() -> None:
    assert scaling.effective_tokens(1e9, 1e9) == 1e9
    assert scaling.effective_tokens(1e9, 3e8) == 3e8


@pytest.mark.parametrize("epochs", [1.5, 2, 4, 16, 40])
def test_repeats_by_the_papers_formula(epochs: float) -> None:
    R = 15.388
    worth = 1e9 + 1e9 * R * (1 - math.exp(-(epochs - 1) / R))
    assert scaling.effective_tokens(1e9, epochs * 1e9) == pytest.approx(worth, rel=1e-12)


def test_repeats_between_their_limits() -> None:
    """A second epoch begins at full worth, four are almost four, and no number passes 1 + R."""
    U, R = 2e8, 15.388
    worth = [scaling.effective_tokens(U, epochs * U) for epochs in np.geomspace(1, 1e6, 400)]
    assert all(np.diff(worth[:150]) > 0)
    assert worth[-1] == pytest.approx(U * (1 + R), rel=1e-12)
    assert scaling.effective_tokens(U, U * (1 + 1e-7)) - U == pytest.approx(U * 1e-7, rel=1e-6)
    assert 3.7 * U < scaling.effective_tokens(U, 4 * U) < 4 * U
    assert scaling.effective_tokens(U, 4 * U, R=1e9) == pytest.approx(4 * U, rel=1e-6)


# ---- isoFLOP, and the naive line


def profiles(
    law: ScalingLaw, spread: float, shift: float = 1, sizes: int = 7, jitter: float = 0
) -> Runs:
    """Three budgets, each with sizes from 1 / spread to spread times its optimum, shifted."""
    N, D = [], []
    draw = np.random.default_rng(0)
    for C in (1e18, 1e19, 1e20):
        for factor in np.geomspace(1 / spread, spread, sizes):
            N.append(shift * factor * law.optimal(C)[0])
            D.append(C * (1 + jitter * draw.uniform(-1, 1)) / 6 / N[-1])
    losses = [law.predict(*nd) for nd in zip(N, D, strict=True)]
    return np.array(N), np.array(D), np.array(losses)


@pytest.mark.parametrize("law", LAWS)
def test_isoflop_finds_the_laws_exponents(law: ScalingLaw) -> None:
    found = scaling.isoflop(*profiles(law, spread=4))
    exact = law.beta / (law.alpha + law.beta)
    assert found.exponent == pytest.approx(exact, rel=1e-9)
    assert 6 * math.prod(found.optimal(1e22)) == pytest.approx(1e22)
    assert found.optimal(1e22)[0] == pytest.approx(law.optimal(1e22)[0], rel=0.1)
    assert [C for C, _, _ in found.minima] == pytest.approx([1e18, 1e19, 1e20], rel=1e-9)


def test_isoflops_parabola_is_exact_only_close_to_the_bottom() -> None:
    """Its coefficient is off with sizes to one side, its exponent is not."""
    law = scaling.BESIROGLU
    near, lopsided = (
        scaling.isoflop(*profiles(law, spread, shift)) for spread, shift in ((1.1, 1), (6, 3))
    )
    exact = law.optimal(1e19)
    assert near.optimal(1e19) == pytest.approx(exact, rel=1e-3)
    assert abs(lopsided.optimal(1e19)[0] / exact[0] - 1) > 0.03
    assert lopsided.exponent == pytest.approx(near.exponent, rel=1e-6)
    C, _, loss = near.minima[1]
    assert loss == pytest.approx(law.predict(*law.optimal(C)), rel=1e-6)


def test_isoflop_takes_budgets_that_nearly_agree() -> None:
    N, D, loss = profiles(SMALL, spread=4, jitter=0.02)
    order = np.random.default_rng(2).permutation(len(N))
    found = scaling.isoflop(N[order], D[order], loss[order])
    assert len(found.minima) == 3
    assert found.exponent == pytest.approx(0.33 / 0.68, abs=0.03)


def test_the_line_in_N_is_the_line() -> None:
    N = np.geomspace(1e5, 1e9, 7)
    law = scaling.power_law_in_N(N, 20 * N**-0.12)
    assert [law.coefficient, law.exponent] == pytest.approx([20, 0.12], rel=1e-9)
    assert law.predict(3e6) == pytest.approx(20 * 3e6**-0.12, rel=1e-9)


def test_the_line_in_N_is_beaten_where_there_is_a_floor() -> None:
    """Fitted on small models, both predict a larger one; the line goes below any floor."""
    N, D, loss = runs_of(SMALL, noise=0.002)
    larger = 100 * N_GRID[-1], 100 * D_GRID[-1]
    line = scaling.power_law_in_N(N, loss).predict(larger[0])
    law = scaling.fit(N, D, loss).predict(*larger)
    truth = SMALL.predict(*larger)
    assert abs(law - truth) < 0.2 * abs(line - truth)


# ---- What is refused

CLEAN = runs_of(SMALL)


def changed(column: str, index: int, value: float) -> Runs:
    runs = {name: values.copy() for name, values in zip(("N", "D", "loss"), CLEAN, strict=True)}
    runs[column][index] = value
    return runs["N"], runs["D"], runs["loss"]


def on_a_line(power: float) -> Runs:
    N = np.geomspace(1e5, 1e8, 8)
    return N, 20 * N**power, np.array([SMALL.predict(n, 20 * n**power) for n in N])


REFUSED: dict[str, tuple[str, Callable[[], object], list[str]]] = {
    "nan": ("bad_value", lambda: scaling.fit(*changed("loss", 4, math.nan)), ["4", "nan"]),
    "inf": ("bad_value", lambda: scaling.fit(*changed("loss", 7, math.inf)), ["7", "inf"]),
    "negative": ("bad_value", lambda: scaling.fit(*changed("loss", 0, -1)), ["0", "loss", "-1"]),
    "no tokens": ("bad_value", lambda: scaling.fit(*changed("D", 3, 0)), ["3", "D = 0"]),
    "no parameters": ("bad_value", lambda: scaling.fit(*changed("N", 29, 0)), ["29", "N = 0"]),
    "five runs": ("few_runs", lambda: scaling.fit(*(c[:5] for c in CLEAN)), ["5", "6"]),
    "no runs": ("lengths", lambda: scaling.fit([], [], []), ["0"]),
    "lengths": ("lengths", lambda: scaling.fit(CLEAN[0], CLEAN[1], CLEAN[2][:-1]), ["30", "29"]),
    "two sizes": ("few_values", lambda: scaling.fit(*runs_of(SMALL, N_GRID[:2])), ["N", "2", "3"]),
    "one D": (
        "few_values", lambda: scaling.fit(*runs_of(SMALL, D_GRID, D_GRID[:1])), ["D", "1", "3"],
    ),
    "20 a parameter": ("one_line", lambda: scaling.fit(*on_a_line(1.0)), ["N", "D"]),
    "D as N squared": ("one_line", lambda: scaling.fit(*on_a_line(2.0)), ["N", "D"]),
    "diverged": ("diverged", lambda: scaling.fit(*changed("loss", 29, 5.5)), ["29", "5.5", "1.25"]),
    "smallest diverged": (
        "misfit", lambda: scaling.fit(*changed("loss", 0, 9.0)), ["0", "9", "1.5"],
    ),
    "rising": ("no_fall", lambda: scaling.fit(*rising()), ["alpha"]),
    "delta": ("above_zero", lambda: scaling.fit(*CLEAN, delta=0), ["delta"]),
    "bootstrap of nan": (
        "bad_value", lambda: scaling.bootstrap(*changed("loss", 4, math.nan)), ["4", "nan"],
    ),
    "no resamples": ("resamples", lambda: scaling.bootstrap(*CLEAN, resamples=0, law=SMALL), ["0"]),
    "interval of nothing": ("interval", lambda: scaling.interval([]), ["0"]),
    "interval of nan": ("interval", lambda: scaling.interval([1, math.nan]), ["2"]),
    "level": ("interval", lambda: scaling.interval([1, 2], level=95), ["95"]),
    "no laws": ("interval", lambda: scaling.predict_interval([], 1, 1, [0]), ["0"]),
    "predict": ("positive", lambda: SMALL.predict(0, 1e9), ["N = 0"]),
    "budget": ("above_zero", lambda: SMALL.optimal(-1), ["C = -1"]),
    "endless budget": ("above_zero", lambda: SMALL.optimal(math.inf), ["C = inf"]),
    "no N term": (
        "no_optimum", lambda: ScalingLaw(1, 0.0, 400, 0.3, 0.3).optimal(1e18), ["A", "0.0"],
    ),
    "unique": ("above_zero", lambda: scaling.effective_tokens(0, 1e9), ["unique = 0"]),
    "total": ("above_zero", lambda: scaling.effective_tokens(1e9, math.nan), ["total = nan"]),
    "one budget": (
        "isoflop_budgets", lambda: scaling.isoflop(*(c[:7] for c in profiles(SMALL, 4))), ["1"],
    ),
    "two sizes at a budget": (
        "isoflop_sizes", lambda: scaling.isoflop(*profiles(SMALL, 4, sizes=2)), ["1e+18", "2", "3"],
    ),
    "all too large": (
        "isoflop_no_minimum", lambda: scaling.isoflop(*profiles(SMALL, 2, shift=8)), ["1e+18"],
    ),
    "isoflop of nan": ("bad_value", lambda: scaling.isoflop(*changed("loss", 4, math.nan)), ["4"]),
    "one size": (
        "few_values", lambda: scaling.power_law_in_N([1e6, 1e6], [3, 3.1]), ["N", "1", "2"],
    ),
    "line of zero": ("above_zero", lambda: scaling.PowerLaw(1, 1).predict(0), ["N = 0"]),
}  # fmt: skip


def rising() -> Runs:
    """Larger models a little worse: no diverged run, and no law."""
    N, D, _ = CLEAN
    return N, D, 3 * (N / N_GRID[0]) ** 0.04 + 60 / D**0.33


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_named(name: str) -> None:
    key, call, words = REFUSED[name]
    with pytest.raises(UserError) as fault:
        call()
    assert fault.value.key == f"scaling.{key}"
    for code in LANGUAGES:
        set_language(code)
        for word in words:
            assert word in str(fault.value)


def test_a_ladder_with_common_noise_is_not_taken_for_diverged() -> None:
    for seed in range(20):
        scaling.check_ladder(*runs_of(SMALL, noise=0.02, seed=seed))


def test_importing_it_does_not_load_torch() -> None:
    code = "import sys, x1.scaling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

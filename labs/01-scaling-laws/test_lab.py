"""The grader of lab 01: torch, finite differences, closed forms, ladders that nobody has seen."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from x1 import scaling
from x1.course.grading import exercise, expect
from x1.scaling import ScalingLaw


def number(value):
    """The learner's number, or NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def array(value, shape, exercise):
    """The learner's answer as floats of that shape."""
    try:
        got = np.asarray(value, float)
    except (TypeError, ValueError):
        got = np.empty(0)
    expect(got.shape == shape, "shape", exercise=exercise, wanted=shape, got=repr(value)[:60])
    return got


def pair(value, exercise):
    """The learner's two numbers."""
    sound = isinstance(value, tuple | list | np.ndarray) and len(value) == 2
    expect(sound, "shape", exercise=exercise, wanted=(2,), got=repr(value)[:60])
    return number(value[0]), number(value[1])


def near(got, wanted, rel=1e-6, absolute=0.0):
    return math.isclose(got, wanted, rel_tol=rel, abs_tol=absolute)


def drawn_law(rng, low_N, low_D):
    """A law none of whose terms is negligible in the region of `low_N` and `low_D`."""
    E, (alpha, beta) = rng.uniform(0.7, 2.5), rng.uniform(0.25, 0.65, 2)
    a = math.log(rng.uniform(0.4, 1.5)) + alpha * math.log(low_N)
    b = math.log(rng.uniform(0.4, 1.5)) + beta * math.log(low_D)
    return np.array([a, b, math.log(E), alpha, beta])


def loss_of(law, N, D):
    a, b, e, alpha, beta = law
    return np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D)) + np.exp(e)


def drawn_ladder(rng, noise, lowest=3.0, highest=12.0):
    """(law, N, D, loss) of 4 to 6 sizes at 4 or 5 token counts, anywhere between the powers."""
    low_N = 10 ** rng.uniform(lowest, highest)
    low_D = low_N * 10 ** rng.uniform(0.5, 2)
    law = drawn_law(rng, low_N, low_D)
    sizes = low_N * np.logspace(0, rng.uniform(1, 2), int(rng.integers(4, 7)))
    counts = low_D * np.logspace(0, rng.uniform(1, 2), int(rng.integers(4, 6)))
    N, D = (grid.ravel() for grid in np.meshgrid(np.rint(sizes), np.rint(counts)))
    return law, N, D, loss_of(law, N, D) * np.exp(rng.normal(0, noise, len(N)))


def told(values):
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


# --- objective and gradient


def by_torch(theta, N, D, loss, delta):
    """The objective as a tensor, of a theta that may want its gradient."""
    a, b, e, alpha, beta = theta
    x, y, target = (torch.log(torch.from_numpy(values)) for values in (N, D, loss))
    terms = torch.stack([a - alpha * x, b - beta * y, e.expand_as(x)])
    return F.huber_loss(torch.logsumexp(terms, 0), target, reduction="sum", delta=delta)


def objective_by_torch(theta, N, D, loss, delta):
    return float(by_torch(torch.from_numpy(theta), N, D, loss, delta))


def gradient_by_torch(theta, N, D, loss, delta):
    at = torch.from_numpy(theta).requires_grad_()
    by_torch(at, N, D, loss, delta).backward()
    return at.grad.numpy()


def drawn_problem(rng):
    """A theta near the law of a ladder, and a delta that some residuals pass and some do not."""
    law, N, D, loss = drawn_ladder(rng, noise=0.05)
    theta = law + rng.normal(0, 0.05, 5) * [1, 1, 1, 0.1, 0.1]
    r = np.sort(np.abs(np.log(loss_of(theta, N, D)) - np.log(loss)))
    middle = slice(len(r) // 4, 3 * len(r) // 4)
    widest = middle.start + int(np.argmax(np.diff(r[middle])))  # no run near the kink
    return theta, N, D, loss, float(r[widest : widest + 2].mean())


def far_problem(rng, up):
    """A theta whose terms are beyond what exp can hold."""
    _, N, D, loss = drawn_ladder(rng, noise=0.05)
    height = rng.uniform(800, 1500) * (1 if up else -1)
    alpha, beta = rng.uniform(0.2, 1.0, 2)
    a = height + rng.normal() + alpha * np.log(N).mean()
    b = height + rng.normal() + beta * np.log(D).mean()
    return np.array([a, b, height + rng.normal(), alpha, beta]), N, D, loss, 0.01


@exercise("objective")
def test_it_is_what_torch_computes(objective, rng):
    for _ in range(6):
        theta, N, D, loss, delta = drawn_problem(rng)
        got = number(objective(theta, N, D, loss, delta))
        right = near(got, objective_by_torch(theta, N, D, loss, delta))
        expect(right, "objective_torch", theta=told(theta), runs=len(N), delta=delta, got=got)


@exercise("objective")
def test_every_run_adds_its_own(objective, rng):
    theta, N, D, loss, delta = drawn_problem(rng)
    once = number(objective(theta, N, D, loss, delta))
    twice = number(objective(theta, *(np.tile(values, 2) for values in (N, D, loss)), delta))
    expect(near(twice, 2 * once), "objective_sum", once=once, twice=twice)


@exercise("objective")
def test_a_run_that_diverged_pulls_with_a_constant_force(objective, rng):
    theta, N, D, loss, delta = drawn_problem(rng)
    worse = [loss.copy(), loss.copy()]
    run, factor = int(rng.integers(len(N))), float(rng.uniform(1.2, 2))
    worse[0][run] *= 2
    worse[1][run] *= 2 * factor
    low, high = (number(objective(theta, N, D, one, delta)) for one in worse)
    right = near(high - low, delta * math.log(factor))
    expect(right, "objective_outlier", factor=factor, delta=delta, got=high - low)


@exercise("objective")
def test_exp_of_a_thousand_is_no_obstacle(objective, rng):
    for up in (True, False):
        theta, N, D, loss, delta = far_problem(rng, up)
        got = number(objective(theta, N, D, loss, delta))
        right = near(got, objective_by_torch(theta, N, D, loss, delta))
        expect(right, "objective_far", theta=told(theta), got=got)


def compared(gradient, problem, wanted):
    """Whether the slopes are `wanted`, and the first that is not as the message tells it."""
    theta, N, D, loss, delta = problem
    got = array(gradient(theta, N, D, loss, delta), (5,), "gradient")
    largest = delta * np.array([len(N)] * 3 + [np.log(N).sum(), np.log(D).sum()])
    wrong = ~(np.abs(got - wanted) <= 1e-7 * largest)
    place = int(np.argmax(wrong))
    name, slope = scaling.PARAMETERS[place], float(got[place])
    return not wrong.any(), {
        "theta": told(theta), "delta": delta, "parameter": name, "got": slope,
    }  # fmt: skip


@exercise("gradient")
def test_it_is_that_of_torch_autograd(gradient, rng):
    for _ in range(6):
        problem = drawn_problem(rng)
        right, case = compared(gradient, problem, gradient_by_torch(*problem))
        expect(right, "gradient_torch", **case)


@exercise("gradient")
def test_it_is_the_slope_between_two_points(gradient, rng):
    theta, N, D, loss, delta = drawn_problem(rng)
    slopes = []
    for step in np.eye(5) * 1e-6:
        ends = (objective_by_torch(theta + way * step, N, D, loss, delta) for way in (1, -1))
        high, low = ends
        slopes.append((high - low) / 2e-6)
    right, case = compared(gradient, (theta, N, D, loss, delta), slopes)
    expect(right, "gradient_slope", **case)


@exercise("gradient")
def test_a_gradient_far_from_the_data(gradient, rng):
    for up in (True, False):
        problem = far_problem(rng, up)
        right, case = compared(gradient, problem, gradient_by_torch(*problem))
        expect(right, "gradient_far", **case)


# --- fit


def solver(N, D, loss, delta=1e-3):
    """The notebook's descend(starts, steps) for these runs."""
    x, y, target = np.log(N), np.log(D), np.log(loss)

    def look(theta):
        a, b, e, alpha, beta = theta.T[:, :, None]
        terms = np.stack([a - alpha * x, b - beta * y, e + 0 * x])
        predicted = np.logaddexp.reduce(terms)
        of_N, of_D, of_E = np.exp(terms - predicted)
        jacobian = np.stack([of_N, of_D, of_E, (x.mean() - x) * of_N, (y.mean() - y) * of_D])
        r = predicted - target
        near = np.minimum(np.abs(r), delta)
        return r, jacobian.transpose(1, 0, 2), (near * (np.abs(r) - near / 2)).sum(axis=1)

    def descend(starts, steps):
        theta = np.array(starts, dtype=float).reshape(-1, 5)
        state = [theta, *look(theta)]
        damping = np.full(len(theta), 1e-2)
        for _ in range(steps):
            _, r, J, value = state
            weighted = J * (delta / np.maximum(np.abs(r), delta))[:, None, :]
            curvature = weighted @ J.swapaxes(1, 2)
            own = np.einsum("sii->si", curvature)
            own += damping[:, None] * np.maximum(own, 1e-10 * own.max(axis=1, keepdims=True))
            step = np.linalg.solve(curvature, weighted @ r[:, :, None])[:, :, 0]
            step[:, :2] += step[:, 3:] * [x.mean(), y.mean()]
            trial = state[0] - step
            moved = [trial, *look(trial)]
            down = moved[3] < value
            for kept, new in zip(state, moved, strict=True):
                kept[down] = new[down]
            damping = np.where(down, np.maximum(damping / 5, 1e-9), damping * 8)
            if (damping > 1e8).all():
                break
        return state[0], state[3]

    return descend


def lowest_near(law, descend):
    """The law at the bottom of the valley that the true one is in."""
    ends, values = descend(law + np.outer([0, 0.05, -0.05], [0, 0, 1, 1, 1]), 500)
    return ends[np.argmin(values)]


def sticky(rng, best, descend):
    """`descend` that makes no step from starts on the far side of `best` in either exponent."""
    sides = rng.choice([-1.0, 1.0], 2)

    def some(starts, steps):
        ends, values = descend(starts, 0)
        free = ((ends[:, 3:] - best[3:]) * sides < 0.1).all(axis=1)
        if free.any():
            ends[free], values[free] = descend(ends[free], steps)
        return ends, values

    return some


def drawn_fit(rng, noise, diverged=False):
    """(law, best fit, the solver to use, N, D, loss) of a ladder whose exponents are ordinary."""
    while True:
        law, N, D, loss = drawn_ladder(rng, noise)
        if diverged:
            loss[rng.integers(len(N))] *= rng.uniform(1.3, 2)
        descend = solver(N, D, loss)
        best = lowest_near(law, descend)
        if (np.abs(best[3:] - 0.45) < 0.3).all():
            return law, best, sticky(rng, best, descend), N, D, loss


@exercise("fit")
def test_no_law_has_a_lower_objective(fit, rng, small):
    for _ in range(3 if small else 8):
        _, best, descend, N, D, loss = drawn_fit(rng, noise=10 ** rng.uniform(-3.5, -2.3))
        got = array(fit(descend, N, D, loss), (5,), "fit")
        least, reached = (scaling.objective(one, N, D, loss) for one in (best, got))
        case = {"low": N.min(), "high": N.max(), "theta": told(got), "excess": reached / least - 1}
        expect(reached <= least * (1 + 1e-4), "fit_lower", **case)


def foretold(fit, case):
    """Whether the law foretells a run of three times the largest size and as many more tokens."""
    law, best, descend, N, D, loss = case
    beyond = 3 * N.max(), 3 * D.max()
    got = array(fit(descend, N, D, loss), (5,), "fit")
    miss, least = (math.log(loss_of(one, *beyond) / loss_of(law, *beyond)) for one in (got, best))
    values = {"low": N.min(), "high": N.max(), "theta": told(got), "miss": miss}
    return abs(miss) <= max(2e-3, 1.5 * abs(least)), values


@exercise("fit")
def test_a_run_beyond_the_ladder_is_foretold(fit, rng, small):
    for _ in range(1 if small else 3):
        right, values = foretold(fit, drawn_fit(rng, noise=1e-4))
        expect(right, "fit_beyond", **values)


@exercise("fit")
def test_a_run_that_diverged_does_not_bend_the_law(fit, rng, small):
    for _ in range(1 if small else 3):
        right, values = foretold(fit, drawn_fit(rng, noise=1e-4, diverged=True))
        expect(right, "fit_diverged", **values)


# --- bootstrap


def drawn_runs(rng):
    """A ladder in which each loss names its run."""
    n = int(rng.integers(12, 26))
    N, D = np.exp(rng.uniform(8, 12, n)), np.exp(rng.uniform(14, 18, n))
    return N, D, np.sort(rng.uniform(2, 5, n))


def recorder(rng):
    """A refit that returns numbers nobody can guess, and what it was asked and answered."""
    key, asked, answers = rng.normal(size=(5, 3)), [], []

    def refit(N, D, loss):
        asked.append(tuple(np.array(values, float) for values in (N, D, loss)))
        answers.append(key @ [np.log(N).sum(), np.log(D).sum(), np.sum(loss)])
        return answers[-1]

    return refit, asked, answers


def resampled(bootstrap, rng, resamples, seed):
    """(which runs each resample had, the ladder, the laws returned, the laws refit returned)."""
    N, D, loss = drawn_runs(rng)
    refit, asked, answers = recorder(rng)
    laws = bootstrap(refit, N, D, loss, resamples, np.random.default_rng(seed))
    drawn = []
    for sizes, counts, losses in asked:
        runs = np.searchsorted(loss, losses).clip(0, len(loss) - 1)
        whole = len(sizes) == len(counts) == len(losses)
        whole = whole and np.array_equal(loss[runs], losses)
        whole = whole and np.array_equal(N[runs], sizes) and np.array_equal(D[runs], counts)
        expect(whole, "bootstrap_whole")
        expect(len(runs) == len(N), "bootstrap_length", n=len(N), got=len(runs))
        drawn.append(runs)
    return drawn, len(N), laws, answers


@exercise("bootstrap")
def test_a_resample_is_made_of_whole_runs(bootstrap, rng):
    for resamples in (3, 7):
        drawn, _, _, _ = resampled(bootstrap, rng, resamples, int(rng.integers(1 << 30)))
        expect(len(drawn) == resamples, "bootstrap_count", resamples=resamples, got=len(drawn))


@exercise("bootstrap")
def test_the_laws_are_those_of_refit(bootstrap, rng):
    for resamples in (4, 6):
        seed = int(rng.integers(1 << 30))
        _, _, laws, answers = resampled(bootstrap, rng, resamples, seed)
        got = array(laws, (resamples, 5), "bootstrap")
        expect(np.array_equal(got, np.array(answers)), "bootstrap_laws", resamples=resamples)


@exercise("bootstrap")
def test_a_run_may_be_drawn_again(bootstrap, rng):
    drawn, n, _, _ = resampled(bootstrap, rng, 200, int(rng.integers(1 << 30)))
    different = float(np.mean([len(np.unique(runs)) for runs in drawn]))
    wanted = n * (1 - (1 - 1 / n) ** n)
    expect(abs(different - wanted) < 0.6, "bootstrap_again", n=n, got=different)


@exercise("bootstrap")
def test_every_run_is_as_likely_as_another(bootstrap, rng):
    drawn, n, _, _ = resampled(bootstrap, rng, 250, int(rng.integers(1 << 30)))
    counts = np.bincount(np.concatenate(drawn), minlength=n)
    for run in (int(counts.argmin()), int(counts.argmax())):
        right = abs(counts[run] - 250) < 90
        expect(right, "bootstrap_likely", n=n, run=run, got=int(counts[run]))


@exercise("bootstrap")
def test_the_generator_decides(bootstrap, rng):
    state = rng.bit_generator.state
    seed = int(rng.integers(1 << 30))
    outcomes = []
    for one in (seed, seed, seed + 1):
        rng.bit_generator.state = state
        outcomes.append(np.array(resampled(bootstrap, rng, 20, one)[0]))
    first, again, other = outcomes
    expect(len({tuple(runs) for runs in first}) > 10, "bootstrap_same")
    expect(np.array_equal(first, again), "bootstrap_seeded")
    expect(not np.array_equal(first, other), "bootstrap_unseeded")


# --- interval


def whole_interval(laws, residuals, N, D, level):
    curve = np.array([loss_of(law, N, D) for law in laws])
    wide = np.array(residuals) * math.sqrt(len(residuals) / (len(residuals) - 5))
    every = np.sort((curve[:, None] * np.exp(wide)[None]).ravel())
    return tuple(np.quantile(every, [0.5 - level / 2, 0.5 + level / 2]))


def drawn_laws(rng, count, spread):
    """(laws, N, D): their losses at N and D spread by about that part of the loss."""
    low_N, low_D = 10 ** rng.uniform(4, 8), 10 ** rng.uniform(6, 10)
    law = drawn_law(rng, low_N, low_D)
    laws = law + spread * rng.normal(size=(count, 5)) * [1, 1, 1, 0.02, 0.02]
    return laws, low_N * rng.uniform(1, 10), low_D * rng.uniform(1, 10)


def placed(interval, laws, residuals, N, D, level):
    """Whether both ends are where they should be, and what the message says if not."""
    low, high = pair(interval(laws, residuals, N, D, level), "interval")
    wanted = whole_interval(laws, residuals, N, D, level)
    width = wanted[1] - wanted[0]
    right = max(abs(low - wanted[0]), abs(high - wanted[1])) <= 0.06 * width
    share = (high - low) / width
    return right, {"laws": len(laws), "n": len(residuals), "level": level, "share": share}


@exercise("interval")
def test_runs_on_the_curve_leave_the_curve(interval, rng):
    laws, N, D = drawn_laws(rng, 400, 0.02)
    residuals = np.zeros(int(rng.integers(15, 30)))
    right, case = placed(interval, laws, residuals, N, D, 0.9)
    expect(right, "interval_curve", **case)


@exercise("interval")
def test_a_curve_that_is_certain_leaves_the_runs(interval, rng):
    laws, N, D = drawn_laws(rng, 1, 0.0)
    residuals = rng.normal(0, 0.02, 150)
    laws = np.repeat(laws, 30, axis=0)
    right, case = placed(interval, laws, residuals, N, D, 0.9)
    expect(right, "interval_runs", **case)


@exercise("interval")
def test_both_together(interval, rng):
    for level in (0.5, 0.8, 0.95):
        laws, N, D = drawn_laws(rng, 300, 0.01)
        residuals = rng.normal(0, 0.02, 55)
        right, case = placed(interval, laws, residuals, N, D, level)
        expect(right, "interval_both", **case)


@exercise("interval")
def test_five_numbers_were_fitted(interval, rng):
    laws, N, D = drawn_laws(rng, 400, 0.015)
    for n in (7, 14):
        residuals = rng.normal(0, 0.02, n)
        right, case = placed(interval, laws, residuals, N, D, 0.8)
        expect(right, "interval_few", **case)


@exercise("interval")
def test_most_residuals_on_one_side(interval, rng):
    laws, N, D = drawn_laws(rng, 400, 0.01)
    for side in (1, -1):
        residuals = side * rng.exponential(0.03, 50)
        right, case = placed(interval, laws, residuals, N, D, 0.9)
        expect(right, "interval_side", **case)


# --- optimal and overtraining


def scaling_law(law):
    a, b, e, alpha, beta = law
    return ScalingLaw(E=math.exp(e), A=math.exp(a), B=math.exp(b), alpha=alpha, beta=beta)


def drawn_budget(rng):
    """(law, C) whose optimum is where all three terms matter."""
    low_N = 10 ** rng.uniform(4, 11)
    low_D = low_N * 10 ** rng.uniform(0.5, 2.5)
    return drawn_law(rng, low_N, low_D), 6 * low_N * low_D * 10 ** rng.uniform(0, 3)


def bought(law, C, head, N):
    return loss_of(law, N, C / (6 * (N + head)))


def found(optimal, law, C, head):
    """(whether no model 1% larger or smaller is better, N, D, what the message says)."""
    N, D = pair(optimal(law, C, head), "optimal")
    case = {"law": told(law), "C": C, "head": head, "N": N, "D": D}
    expect(N > 0 and near(6 * (N + head) * D, C, 1e-4), "optimal_budget", **case)
    here = bought(law, C, head, N)
    best = all(bought(law, C, head, factor * N) >= here for factor in (1.01, 1 / 1.01))
    return best, N, D, case


@exercise("optimal")
def test_no_other_split_is_better(optimal, rng):
    for _ in range(6):
        law, C = drawn_budget(rng)
        best, _, _, case = found(optimal, law, C, 0)
        expect(best, "optimal_neighbour", **case)


@exercise("optimal")
def test_without_a_head_it_is_the_closed_form(optimal, rng):
    for _ in range(4):
        law, C = drawn_budget(rng)
        _, N, D, case = found(optimal, law, C, 0)
        wanted = scaling_law(law).optimal(C)
        expect(near(N, wanted[0], 5e-3) and near(D, wanted[1], 5e-3), "optimal_closed", **case)


@exercise("optimal")
def test_uncounted_parameters_are_paid_for(optimal, rng):
    for share in (0.1, 1.0, 5.0):
        law, C = drawn_budget(rng)
        head = share * scaling_law(law).optimal(C)[0]
        best, _, _, case = found(optimal, law, C, head)
        expect(best, "optimal_head", **case)


@exercise("optimal")
def test_the_published_laws(optimal):
    for published in scaling.PUBLISHED:
        for C in (1.4e18, 5.76e23):
            law = scaling.parameters(published)
            _, N, D, case = found(optimal, law, C, 0)
            wanted = published.optimal(C)
            expect(near(D / N, wanted[1] / wanted[0], 0.01), "optimal_closed", **case)


def held_price(overtraining, law, N, C):
    nats, share = pair(overtraining(law, N, C), "overtraining")
    return nats, share, {"law": told(law), "N": N, "C": C, "nats": nats, "share": share}


@exercise("overtraining")
def test_the_best_split_costs_nothing(overtraining, rng):
    for _ in range(3):
        law, C = drawn_budget(rng)
        nats, share, case = held_price(overtraining, law, scaling_law(law).optimal(C)[0], C)
        expect(abs(nats) < 1e-6 and abs(share - 1) < 1e-6, "price_nothing", **case)


@exercise("overtraining")
def test_the_nats_above_the_best_split(overtraining, rng):
    for factor in (0.1, 0.4, 3.0):
        law, C = drawn_budget(rng)
        own = scaling_law(law)
        N = factor * own.optimal(C)[0]
        nats, _, case = held_price(overtraining, law, N, C)
        expect(near(nats, own.overtraining_nats(N, C), 1e-4), "price_nats", **case)


@exercise("overtraining")
def test_that_share_of_the_compute_reaches_the_same_loss(overtraining, rng):
    for factor in (0.1, 0.4, 3.0):
        law, C = drawn_budget(rng)
        own = scaling_law(law)
        N = factor * own.optimal(C)[0]
        _, share, case = held_price(overtraining, law, N, C)
        expect(0 < share < 1, "price_share", **case)
        reached = own.predict(*own.optimal(share * C))
        wanted = own.predict(N, C / 6 / N)
        excess = wanted - own.predict(*own.optimal(C))
        expect(abs(reached - wanted) < 1e-3 * excess, "price_share", **case)


# --- effective_tokens


def drawn_text(rng):
    return float(rng.integers(10**6, 10**9)), float(rng.uniform(2, 30))


@exercise("effective_tokens")
def test_fresh_tokens_count_in_full(effective_tokens, rng):
    for share in (0.01, 0.6, 1.0):
        unique, R = drawn_text(rng)
        total = share * unique
        got = number(effective_tokens(unique, total, R))
        expect(near(got, total), "tokens_fresh", unique=unique, total=total, R=R, got=got)


@exercise("effective_tokens")
def test_a_pass_is_worth_less_than_the_one_before(effective_tokens, rng):
    unique, R = drawn_text(rng)
    worth = [number(effective_tokens(unique, unique * passes, R)) for passes in range(1, 7)]
    gains = np.diff(worth) / unique
    for passes in range(1, 5):
        right = near(gains[passes], gains[passes - 1] * math.exp(-1 / R))
        expect(right, "tokens_pass", unique=unique, R=R, passes=passes + 2, gains=told(gains))
    first = near(gains[0], R * -math.expm1(-1 / R))
    expect(first, "tokens_pass", unique=unique, R=R, passes=2, gains=told(gains))


@exercise("effective_tokens")
def test_a_pass_need_not_be_whole(effective_tokens, rng):
    for _ in range(3):
        unique, R = drawn_text(rng)
        total = unique * float(rng.uniform(1.05, 3.95))
        got = number(effective_tokens(unique, total, R))
        right = near(got, scaling.effective_tokens(unique, total, R))
        expect(right, "tokens_part", unique=unique, total=total, R=R, got=got)


@exercise("effective_tokens")
def test_no_number_of_passes_is_worth_more_than_so_many(effective_tokens, rng):
    unique, R = drawn_text(rng)
    got = number(effective_tokens(unique, 1e6 * unique, R))
    expect(near(got, unique * (1 + R)), "tokens_limit", unique=unique, R=R, got=got)

"""Scaling laws: the loss of a model of N parameters trained on D tokens.

N counts every parameter, embedding included (the convention of Hoffmann et al.); D counts
training tokens; losses are nats per token *of the tokens the law was fitted on*. Another text or
another tokenizer has another loss: how far off a law is there is `transfer_error`.

The law is fitted to the runs of a ladder by approach 3 of Hoffmann et al. (arXiv 2203.15556,
section 3.3 and appendix D): `fit`, `bootstrap`, `predict_interval`. `isoflop` is their approach 2,
which assumes less and says less; `power_law_in_N` is the naive line to beat.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from x1.text import UserError

Floats = NDArray[np.float64]
Runs = tuple[Floats, Floats, Floats]  # N, D, loss

FLOPS_PER_PARAMETER_TOKEN = 6  # C = 6 N D: two forward, four backward


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats per token."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str = ""

    def predict(self, N: float, D: float) -> float:
        """Loss in nats/token after D tokens with N parameters. Raises UserError unless both > 0."""
        if not (N > 0 and D > 0):
            raise UserError("scaling.positive", N=N, D=D)
        return float(self.E + self.A * N**-self.alpha + self.B * D**-self.beta)

    def optimal(self, C: float) -> tuple[float, float]:
        """(parameters, tokens) of the least loss that C = 6 N D FLOPs can buy.

        Hoffmann et al., eq. 4: where both terms fall equally fast along the budget's line,
        alpha A / N^alpha = beta B / D^beta. Raises UserError unless C is finite and above 0, and
        for a law that does not fall with both N and D, which has no such point.
        """
        budget = _above_zero("C", C) / FLOPS_PER_PARAMETER_TOKEN
        for name in ("A", "B", "alpha", "beta"):
            if not getattr(self, name) > 0:
                raise UserError("scaling.no_optimum", name=name, value=getattr(self, name))
        ratio = self.alpha * self.A / (self.beta * self.B)
        N = (ratio * budget**self.beta) ** (1 / (self.alpha + self.beta))
        return N, budget / N

    def overtraining_nats(self, N: float, C: float) -> float:
        """How far above the best loss for C FLOPs a model of N parameters ends, in nats/token.

        The price, paid once in training, of a model that is smaller and cheaper to use than the
        optimum (or larger). Raises UserError as `predict` and `optimal` do.
        """
        return self.predict(N, C / (FLOPS_PER_PARAMETER_TOKEN * N)) - self.predict(*self.optimal(C))


HOFFMANN = ScalingLaw(
    E=1.693, A=406.4, B=410.7, alpha=0.3392, beta=0.2849,
    source="Hoffmann et al., arXiv 2203.15556, section 3.3 (approach 3)",
)  # fmt: skip
BESIROGLU = ScalingLaw(
    E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658,
    source="Besiroglu et al., arXiv 2404.10102, section 3",
)  # fmt: skip
PUBLISHED = (HOFFMANN, BESIROGLU)


@dataclass(frozen=True)
class Point:
    """A published loss, nats/token, of a model of N parameters after D tokens."""

    N: float
    D: float
    loss_nats: float
    source: str


WEB_TEXT = (
    Point(79e6, 1.6e9, 3.80, "Gadre et al., arXiv 2403.08540, 79M on C4"),
    Point(79e6, 3.2e9, 3.64, "Gadre et al., arXiv 2403.08540, 79M on C4"),
    Point(79e6, 6.3e9, 3.52, "Gadre et al., arXiv 2403.08540, 79M on C4"),
    Point(124e6, 10e9, 3.29, "GPT-2 small's size on FineWeb, public reproductions"),
)
"""Small models on filtered web text, none of which the laws above were fitted on."""


def transfer_error(
    laws: tuple[ScalingLaw, ...] = PUBLISHED, points: tuple[Point, ...] = WEB_TEXT
) -> float:
    """The farthest, in nats/token, that any of these laws is from any of these points."""
    return max(abs(law.predict(p.N, p.D) - p.loss_nats) for law in laws for p in points)


def effective_tokens(unique: float, total: float, R: float = 15.388) -> float:
    """What `total` training tokens are worth when only `unique` of them are different.

    Each further epoch is worth e^(-1/R) of the one before, and no number of epochs more than
    `unique` times 1 + R. Muennighoff et al., arXiv 2305.16264, section 3.1, and R fitted there.
    Use it as the D of `ScalingLaw.predict`. Raises UserError unless all three are above 0.
    """
    for name, value in (("unique", unique), ("total", total), ("R", R)):
        _above_zero(name, value)
    repeats = max(0.0, total / unique - 1)
    return min(unique, total) - unique * R * math.expm1(-repeats / R)


# ---- The objective

STEEPEST = 10.0  # no curve's exponent: beyond, a term lives at the smallest N or D alone
TOLERANCE = 1e-9  # of the gradient, relative to its largest possible value

PARAMETERS = ("a", "b", "e", "alpha", "beta")
"""What the fit moves: a = ln A, b = ln B, e = ln E, so that A, B and E stay above 0."""


def parameters(law: ScalingLaw) -> Floats:
    """(5,) the law as (a, b, e, alpha, beta); minus infinity for a term or floor of 0."""
    with np.errstate(divide="ignore"):
        return np.array([*np.log([law.A, law.B, law.E]), law.alpha, law.beta])


def objective(
    law: ScalingLaw | ArrayLike, N: ArrayLike, D: ArrayLike, loss: ArrayLike, delta: float = 1e-3
) -> float:
    """What `fit` minimises: the sum over runs of Huber_delta(ln predicted - ln observed).

    `law` is a ScalingLaw or its five PARAMETERS; N, D and loss are (n,), loss in nats/token. The
    logarithm of the prediction is LSE(a - alpha ln N, b - beta ln D, e). It is a sum and not a
    mean on purpose: a solver's tolerances are absolute, and dividing by the number of runs makes
    it stop where the sum would have gone on. Raises UserError as `check_runs` does.
    """
    residual, _ = _residuals(_row(law), *_logs(*check_runs(N, D, loss)))
    return float(_huber(residual, _delta(delta)).sum())


def gradient(
    law: ScalingLaw | ArrayLike, N: ArrayLike, D: ArrayLike, loss: ArrayLike, delta: float = 1e-3
) -> Floats:
    """(5,) the derivative of `objective` in a, b, e, alpha, beta. Raises UserError likewise."""
    x, y, target = _logs(*check_runs(N, D, loss))
    residual, shares = _residuals(_row(law), x, y, target)
    slope = np.clip(residual, -_delta(delta), delta)
    return np.asarray((_jacobian(shares, x, y) @ slope[:, :, None])[0, :, 0])


def residuals(law: ScalingLaw, N: ArrayLike, D: ArrayLike, loss: ArrayLike) -> Floats:
    """(n,) ln observed - ln predicted: about the relative error. Raises UserError likewise."""
    difference, _ = _residuals(_row(law), *_logs(*check_runs(N, D, loss)))
    return -difference[0]


def _row(law: ScalingLaw | ArrayLike) -> Floats:
    return (parameters(law) if isinstance(law, ScalingLaw) else np.asarray(law, float))[None]


def _logs(N: Floats, D: Floats, loss: Floats) -> tuple[Floats, Floats, Floats]:
    return np.log(N), np.log(D), np.log(loss)


def _huber(residual: Floats, delta: float) -> Floats:
    size = np.abs(residual)
    near = np.minimum(size, delta)
    return near * (size - near / 2)


def _residuals(theta: Floats, x: Floats, y: Floats, target: Floats) -> tuple[Floats, Floats]:
    """(S, n) ln predicted - ln observed for S sets of parameters, and (3, S, n) the shares of the
    N term, the D term and the floor in the prediction, which are its derivatives in a, b, e.
    """
    a, b, e, alpha, beta = theta.T[:, :, None]
    terms = np.stack([a - alpha * x, b - beta * y, e + np.zeros_like(x)])
    largest = terms.max(axis=0)
    shares = np.exp(terms - largest)  # none overflows, and one of the three is 1
    total = shares.sum(axis=0)
    return largest + np.log(total) - target, shares / total


def _jacobian(shares: Floats, x: Floats, y: Floats) -> Floats:
    """(S, 5, n) the derivative of each residual in each of PARAMETERS."""
    of_N, of_D, floor = shares
    return np.stack([of_N, of_D, floor, -x * of_N, -y * of_D], axis=1)


# ---- The fit


def starts() -> Floats:
    """(4500, 5) where the published recipe starts: Hoffmann et al., section 3.3."""
    amplitude, exponent = np.arange(0, 26, 5), np.arange(0, 2.1, 0.5)
    floor = np.arange(-1, 1.1, 0.5)
    return np.array(list(itertools.product(amplitude, amplitude, floor, exponent, exponent)))


def fit(
    N: ArrayLike,
    D: ArrayLike,
    loss: ArrayLike,
    delta: float = 1e-3,
    start: ArrayLike | None = None,
) -> ScalingLaw:
    """The law whose `objective` is least, found from `starts()` or from your own `start`, (S, 5).

    N, D, loss: (n,), one entry a run, loss in nats/token. Many of the 4,500 starts end on a
    plateau where one term has vanished; that is why there are so many.

    Raises UserError for anything `check_ladder` refuses, for losses that do not fall with N and D,
    and for a run whose loss is 1.5 times what the law fitted to all of them gives.
    """
    runs = check_ladder(N, D, loss)
    x, y, target = _logs(*runs)
    centre = x.mean(), y.mean()
    theta = _centred(starts() if start is None else np.atleast_2d(np.asarray(start, float)), centre)
    x, y = x - centre[0], y - centre[1]

    # Enough to tell the valleys apart; then the lowest go on until nothing moves.
    ends, values = _descend(theta, x, y, target, np.ones(1), _delta(delta), iterations=60)
    lowest = ends[np.argsort(values)[:30]]
    ends, values = _descend(lowest, x, y, target, np.ones(1), delta, iterations=5000)
    law = _law(_centred(ends[[np.argmin(values)]], centre, back=True)[0])

    for name in ("alpha", "beta"):
        if not getattr(law, name) > 0:
            raise UserError("scaling.no_fall", name=name, value=f"{getattr(law, name):.3g}")
    off = residuals(law, *runs)
    worst = int(np.argmax(off))
    if off[worst] > math.log(MISFIT):
        expected = f"{runs[2][worst] / math.exp(off[worst]):.4g}"
        raise UserError("scaling.misfit", **_named(runs, worst), factor=MISFIT, expected=expected)
    return law


def _descend(
    theta: Floats, x: Floats, y: Floats, target: Floats, weights: Floats, delta: float,
    iterations: int,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Descend from every row of theta (S, 5) at once; returns where they end and their values (S,).

    x and y are ln N and ln D less their means; weights, (1,) or (S, n), say how often each run
    counts.

    The recipe is an objective and its starts. It was published with L-BFGS, but a minimum does
    not know which solver found it, so this one is chosen for its speed in numpy and for reaching
    the bottom: with delta this small the objective is nearly a sum of absolute values, whose
    kinks mislead an estimate of curvature gathered from gradients. Huber's gradient is that of
    least squares in which each run weighs min(1, delta / |residual|), and those weighted squares
    touch the objective at the present point and lie above it everywhere else (as functions of the
    residuals). So each step minimises them, with Levenberg-Marquardt damping because the
    residuals are not linear in theta, and is taken only if the objective falls.
    """
    weights = np.broadcast_to(weights, (len(theta), len(x)))
    blocks = [  # of a size whose arrays stay in the processor's cache
        _descend_block(theta[i : i + 300], x, y, target, weights[i : i + 300], delta, iterations)
        for i in range(0, len(theta), 300)
    ]
    ends, values = zip(*blocks, strict=True)
    return np.concatenate(ends), np.concatenate(values)


def _descend_block(
    theta: Floats, x: Floats, y: Floats, target: Floats, counts: Floats, delta: float,
    iterations: int,
) -> tuple[Floats, Floats]:  # fmt: skip
    theta = theta.copy()
    values = np.empty(len(theta))
    live = np.arange(len(theta))  # rows still descending; all but theta and values is theirs alone
    damping = np.full(len(theta), 1e-2)
    residual, shares = _residuals(theta, x, y, target)
    value = (counts * _huber(residual, delta)).sum(axis=1)
    diagonal = np.arange(len(PARAMETERS))

    for _ in range(iterations):
        J = _jacobian(shares, x, y)
        weight = counts * delta / np.maximum(np.abs(residual), delta)
        slope = J @ (weight * residual)[:, :, None]  # (S, 5, 1)
        curvature = (J * weight[:, None, :]) @ J.swapaxes(1, 2)  # (S, 5, 5)
        own = curvature[:, diagonal, diagonal]
        # A term that has vanished has no curvature: the floor keeps the system solvable.
        own = np.maximum(own, 1e-10 * own.max(axis=1, keepdims=True))
        curvature[:, diagonal, diagonal] += damping[:, None] * own
        with np.errstate(over="ignore", invalid="ignore"):  # such a step is not taken
            trial = theta[live] - np.linalg.solve(curvature, slope)[:, :, 0]
            trial_residual, trial_shares = _residuals(trial, x, y, target)
            trial_value = (counts * _huber(trial_residual, delta)).sum(axis=1)

        down = (trial_value < value) & (np.abs(trial[:, 3:]) < STEEPEST).all(axis=1)
        theta[live[down]] = trial[down]
        residual[down], shares[:, down] = trial_residual[down], trial_shares[:, down]
        value[down] = trial_value[down]
        damping = np.where(down, np.maximum(damping / 5, 1e-12), damping * 4)

        # Relative to its largest possible value, so that neither n nor delta changes its meaning.
        steepness = np.abs(slope).max(axis=(1, 2)) / (delta * counts.sum(axis=1))
        going = (steepness > TOLERANCE) & (damping < 1e12)
        if not going.all():
            values[live[~going]] = value[~going]
            live, counts, value, damping = live[going], counts[going], value[going], damping[going]
            residual, shares = residual[going], shares[:, going]
        if not len(live):
            break
    values[live] = value
    return theta, values


def _centred(theta: Floats, centre: tuple[float, float], back: bool = False) -> Floats:
    """The same laws in terms of ln N - centre[0] and ln D - centre[1].

    Far from ln N = 0 a change of alpha looks like one of a; about the centre of the runs the two
    are told apart, and the squares are well conditioned. Starts and minimum stay the same laws.
    """
    sign = 1 if back else -1
    moved = theta.copy()
    moved[:, :2] += sign * theta[:, 3:] * np.array(centre)
    return moved


def _law(theta: Floats) -> ScalingLaw:
    a, b, e, alpha, beta = (float(value) for value in theta)
    with np.errstate(over="ignore"):
        A, B, E = (float(value) for value in np.exp([a, b, e]))
    return ScalingLaw(E=E, A=A, B=B, alpha=alpha, beta=beta)


# ---- Intervals


def bootstrap(
    N: ArrayLike,
    D: ArrayLike,
    loss: ArrayLike,
    resamples: int = 500,
    seed: int = 0,
    delta: float = 1e-3,
    law: ScalingLaw | None = None,
) -> list[ScalingLaw]:
    """The laws of `resamples` ladders drawn from these runs with replacement, each of n runs.

    Every resample is fitted to convergence from `law`, the fit of all runs (made here unless you
    pass it), and from a flatter and a steeper one, in case this one has lost its floor.
    A draw that cannot determine five numbers (see `check_ladder`) is drawn again; with fewer than
    about fifteen runs this is frequent, and the spread is then a lower bound.

    Raises UserError as `fit` does, and unless resamples is at least 1.
    """
    runs = check_ladder(N, D, loss)
    if resamples < 1:
        raise UserError("scaling.resamples", count=resamples)
    law = law or fit(*runs, delta)
    x, y, target = _logs(*runs)
    centre = x.mean(), y.mean()
    best = _centred(parameters(law)[None], centre)[0]
    theta = np.tile(best, (3, 1))
    theta[1:, 2] = target.min() - math.log(2)
    theta[1:, 3:] *= [[0.7], [1.4]]

    draws = _draws(runs, resamples, np.random.default_rng(seed))
    counts = np.repeat(np.array([np.bincount(d, minlength=len(x)) for d in draws]), len(theta), 0)
    theta = np.tile(theta, (resamples, 1))
    x, y = x - centre[0], y - centre[1]
    ends, values = _descend(theta, x, y, target, counts, _delta(delta), iterations=500)
    lowest = values.reshape(resamples, -1).argmin(axis=1)
    ends = ends.reshape(resamples, -1, len(PARAMETERS))[np.arange(resamples), lowest]
    return [_law(row) for row in _centred(ends, centre, back=True)]


def _draws(runs: Runs, resamples: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """`resamples` draws of n run indices, each of which determines a law."""
    n = len(runs[0])
    found: list[NDArray[np.int64]] = []
    while len(found) < resamples:
        draw = random.integers(n, size=n)
        N, D, loss = (column[np.unique(draw)] for column in runs)
        if _fault(N, D, loss, least=len(PARAMETERS)) is None:
            found.append(draw)
    return found


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """(low, high): the middle `level` of some values, as of a parameter over `bootstrap`'s laws.

    Raises UserError without values, for one that is not finite, and for a level outside (0, 1).
    """
    array = np.asarray(values, float)
    if not array.size or not np.isfinite(array).all() or not 0 < level < 1:
        raise UserError("scaling.interval", count=array.size, level=level)
    low, high = np.quantile(array, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def predict_interval(
    laws: Sequence[ScalingLaw], N: float, D: float, residuals: ArrayLike, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) for the loss of one new run, nats/token: what to write down before it starts.

    Two things are uncertain: where the curve lies, told by the spread of the bootstrap's laws, and
    how far a run falls from the curve, told by `residuals` of the fit. Every law is combined with
    every residual. A fit of five numbers draws its own runs closer than new ones will be, so n
    residuals are widened by sqrt(n / (n - 5)). Pass [0] for the interval of the curve alone, which
    is not one for a run.

    It knows nothing of runs unlike those fitted: another schedule, another text, or an N or D so
    far outside that the law itself may fail. Raises UserError as `predict` and `interval` do.
    """
    scatter = np.atleast_1d(np.asarray(residuals, float))
    n = scatter.size
    if n > len(PARAMETERS):
        scatter = scatter * math.sqrt(n / (n - len(PARAMETERS)))
    curve = np.array([law.predict(N, D) for law in laws])
    return interval(np.outer(curve, np.exp(scatter)), level)


# ---- Other ways to look at a ladder


@dataclass(frozen=True)
class IsoFlop:
    """N_opt = coefficient * C^exponent, and the (C, N, loss) at the bottom of each parabola."""

    exponent: float
    coefficient: float
    minima: tuple[tuple[float, float, float], ...]

    def optimal(self, C: float) -> tuple[float, float]:
        """(parameters, tokens) for C = 6 N D FLOPs. Raises UserError unless C is above 0."""
        N = self.coefficient * _above_zero("C", C) ** self.exponent
        return N, C / (FLOPS_PER_PARAMETER_TOKEN * N)


def isoflop(N: ArrayLike, D: ArrayLike, loss: ArrayLike) -> IsoFlop:
    """The compute-optimal N from runs made at a few fixed budgets C = 6 N D.

    Approach 2 of Hoffmann et al. (section 3.2): at each budget a parabola of the loss in ln N,
    then a straight line of ln N at their bottoms in ln C. Runs whose budgets agree within 10% are
    one profile. D_opt has the exponent 1 - exponent. The parabola is only an approximation of the
    law: with sizes that are not centred on the optimum its bottom is off, by the same factor at
    every budget if the sizes are off by the same factor, which spares the exponent.

    Raises UserError as `check_runs` does, for fewer than 2 budgets or 3 sizes at one of them, and
    for a budget whose bottom is not between its smallest and largest size.
    """
    N, D, loss = check_runs(N, D, loss)
    C = FLOPS_PER_PARAMETER_TOKEN * N * D
    order = np.argsort(C)
    profiles: list[list[int]] = []
    for i in order:
        if profiles and C[i] <= 1.1 * C[profiles[-1][0]]:
            profiles[-1].append(i)
        else:
            profiles.append([i])
    if len(profiles) < 2:
        raise UserError("scaling.isoflop_budgets", count=len(profiles))
    minima = tuple(_bottom(C[p], N[p], loss[p]) for p in profiles)
    budgets, sizes, _ = np.log(minima).T
    exponent, intercept = np.polyfit(budgets, sizes, 1)
    return IsoFlop(float(exponent), math.exp(intercept), minima)


def _bottom(C: Floats, N: Floats, loss: Floats) -> tuple[float, float, float]:
    budget = math.exp(np.log(C).mean())
    sizes = len(np.unique(N))
    if sizes < 3:
        raise UserError("scaling.isoflop_sizes", budget=f"{budget:.3g}", count=sizes)
    middle = np.log(N).mean()
    curve, slope, height = np.polyfit(np.log(N) - middle, loss, 2)
    if curve > 0:
        offset = -slope / (2 * curve)
        best = math.exp(middle + offset)
        if N.min() <= best <= N.max():
            return budget, best, float(height + slope * offset / 2)
    raise UserError(
        "scaling.isoflop_no_minimum",
        budget=f"{budget:.3g}", low=f"{N.min():.3g}", high=f"{N.max():.3g}",
    )  # fmt: skip


@dataclass(frozen=True)
class PowerLaw:
    """L = coefficient / N^exponent, in nats per token: no floor, no tokens."""

    coefficient: float
    exponent: float

    def predict(self, N: float) -> float:
        """Loss in nats/token with N parameters. Raises UserError unless N is above 0."""
        return self.coefficient * _above_zero("N", N) ** -self.exponent


def power_law_in_N(N: ArrayLike, loss: ArrayLike) -> PowerLaw:
    """The straight line of ln loss in ln N by least squares, whatever the tokens.

    What anyone would draw through a ladder first, and so what a law has to beat. Raises UserError
    as `check_runs` does, and for fewer than 2 different N.
    """
    N, _, loss = check_runs(N, np.ones(np.shape(N)), loss)
    if len(np.unique(N)) < 2:
        raise UserError("scaling.few_values", name="N", count=1, least=2)
    slope, intercept = np.polyfit(np.log(N), np.log(loss), 1)
    return PowerLaw(math.exp(intercept), float(-slope))


# ---- What is refused


DIVERGED = 1.25
"""No law of this form lets a run lose to a smaller one that saw no more tokens. By noise it may,
but not by this factor: in the 245 published points of Hoffmann et al. the most is 1.012."""

MISFIT = 1.5
"""For a diverged run that is beyond comparison, as the smallest is. The published points that
were kept out of the published fits are at most a factor of 1.30 above that of all 245."""


def check_runs(N: ArrayLike, D: ArrayLike, loss: ArrayLike) -> Runs:
    """N, D and loss as three (n,) float arrays.

    Raises UserError, naming the run, unless all are finite and above 0 (a NaN loss is a run that
    diverged), and when their lengths differ.
    """
    columns = [np.asarray(values, float).ravel() for values in (N, D, loss)]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise UserError("scaling.lengths", N=lengths[0], D=lengths[1], loss=lengths[2])
    for name, column in zip(("N", "D", "loss"), columns, strict=True):
        wrong = ~(np.isfinite(column) & (column > 0))
        if wrong.any():
            run = int(np.argmax(wrong))
            raise UserError("scaling.bad_value", run=run, name=name, value=f"{column[run]:g}")
    return columns[0], columns[1], columns[2]


def check_ladder(N: ArrayLike, D: ArrayLike, loss: ArrayLike) -> Runs:
    """`check_runs`, and that these runs can determine a law.

    Raises UserError for fewer than 6 runs, fewer than 3 different N or D (a curve with a floor
    needs three), N and D that only ever change together, and a run that diverged: its loss more
    than 1.25 times that of another with no more parameters and no more tokens.
    """
    runs = check_runs(N, D, loss)
    fault = _fault(*runs, least=len(PARAMETERS) + 1)
    if fault:
        raise fault
    N, D, loss = runs
    within = (N[None] <= N[:, None]) & (D[None] <= D[:, None])  # [i, j]: j had no more than i
    excess = loss[:, None] / np.where(within, loss[None], np.inf)
    run, other = (int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
    if excess[run, other] > DIVERGED:
        raise UserError(
            "scaling.diverged",
            **_named(runs, run), factor=DIVERGED, other=other, other_loss=f"{loss[other]:.4g}",
        )  # fmt: skip
    return runs


def _fault(N: Floats, D: Floats, loss: Floats, least: int) -> UserError | None:
    """Why these runs cannot determine five numbers, or None."""
    if len(loss) < least:
        return UserError("scaling.few_runs", count=len(loss), least=least)
    for name, column in (("N", N), ("D", D)):
        different = len(np.unique(column))
        if different < 3:
            return UserError("scaling.few_values", name=name, count=different, least=3)
    if abs(np.corrcoef(np.log(N), np.log(D))[0, 1]) > 1 - 1e-6:
        return UserError("scaling.one_line")
    return None


def _named(runs: Runs, run: int) -> dict[str, str]:
    N, D, loss = (f"{column[run]:.4g}" for column in runs)
    return {"run": str(run), "N": N, "D": D, "loss": loss}


def _above_zero(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UserError("scaling.above_zero", name=name, value=value)
    return float(value)


def _delta(delta: float) -> float:
    return _above_zero("delta", delta)

# caught by: test_a_curve_that_is_certain_leaves_the_runs
# exercise: interval
import numpy as np


def interval(laws, residuals, N, D, level):
    a, b, e, alpha, beta = np.asarray(laws).T
    curve = np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D)) + np.exp(e)
    losses = curve + 0 * residuals[0]
    low, high = np.quantile(losses, [(1 - level) / 2, (1 + level) / 2])
    return low, high

# caught by: test_runs_on_the_curve_leave_the_curve
# exercise: interval
import math

import numpy as np


def interval(laws, residuals, N, D, level):
    a, b, e, alpha, beta = np.asarray(laws).T
    curve = np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D)) + np.exp(e)
    n = len(residuals)
    scatter = np.asarray(residuals) * math.sqrt(n / (n - 5))
    losses = curve[: len(scatter)] * np.exp(scatter[: len(curve)])
    low, high = np.quantile(losses, [(1 - level) / 2, (1 + level) / 2])
    return low, high

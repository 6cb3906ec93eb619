# caught by: test_both_together
# exercise: interval
import math

import numpy as np


def interval(laws, residuals, N, D, level):
    a, b, e, alpha, beta = np.asarray(laws).T
    curve = np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D)) + np.exp(e)
    n = len(residuals)
    scatter = np.asarray(residuals) * math.sqrt(n / (n - 5))
    losses = np.outer(curve, np.exp(scatter))
    low, high = np.quantile(losses, [0.05, 0.95])
    return low, high

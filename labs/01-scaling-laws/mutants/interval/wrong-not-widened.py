# caught by: test_five_numbers_were_fitted
# exercise: interval
import numpy as np


def interval(laws, residuals, N, D, level):
    a, b, e, alpha, beta = np.asarray(laws).T
    curve = np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D)) + np.exp(e)
    scatter = np.asarray(residuals)
    losses = np.outer(curve, np.exp(scatter))
    low, high = np.quantile(losses, [(1 - level) / 2, (1 + level) / 2])
    return low, high

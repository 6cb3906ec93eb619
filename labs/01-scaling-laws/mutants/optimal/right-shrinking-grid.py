# exercise: optimal
import numpy as np


def optimal(law, C, head):
    a, b, _, alpha, beta = law
    low, high = 0.0, np.log(C / 6)
    while high - low > 1e-4:
        x = np.linspace(low, high, 41)
        y = np.log(C / 6) - np.log(np.exp(x) + head)
        best = int(np.argmin(np.exp(a - alpha * x) + np.exp(b - beta * y)))
        low, high = x[max(best - 1, 0)], x[min(best + 1, 40)]
    N = float(np.exp((low + high) / 2))
    return N, C / 6 / (N + head)

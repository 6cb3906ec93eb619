# exercise: interval
import numpy as np


def interval(laws, residuals, N, D, level):
    laws, residuals = np.asarray(laws, float), np.asarray(residuals, float)
    rng = np.random.default_rng(0)
    chosen = laws[np.arange(120_000) % len(laws)]
    terms = [chosen[:, 0] - chosen[:, 3] * np.log(N), chosen[:, 1] - chosen[:, 4] * np.log(D)]
    curve = np.logaddexp(np.logaddexp(*terms), chosen[:, 2])
    wider = (len(residuals) / (len(residuals) - 5)) ** 0.5
    runs = np.sort(curve + wider * rng.choice(residuals, len(curve)))
    tail = int(len(runs) * (1 - level) / 2)
    return float(np.exp(runs[tail])), float(np.exp(runs[-1 - tail]))

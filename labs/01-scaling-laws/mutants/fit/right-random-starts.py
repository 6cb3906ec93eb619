# exercise: fit
import numpy as np


def fit(descend, N, D, loss):
    rng = np.random.default_rng(1)
    exponents = rng.uniform(-0.1, 1.1, (90, 2))
    shares = rng.dirichlet([1.0, 1.0, 1.0], 90)
    middles = np.array([np.log(N).mean(), np.log(D).mean()])
    heights = np.log(shares) + np.log(loss).mean()
    heights[:, :2] += exponents * middles
    theta, values = descend(np.hstack([heights, exponents]), 100)
    return theta[values.argmin()]

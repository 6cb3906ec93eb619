# exercise: fit
import numpy as np


def fit(descend, N, D, loss):
    rng, kept = np.random.default_rng(3), np.empty((0, 5))
    height = np.log(loss).mean() + np.log([0.25, 0.25, 0.5])
    middle = np.array([np.log(N).mean(), np.log(D).mean()])
    for _ in range(3):
        exponents = 1.2 * rng.random((30, 2)) ** 1.3 - 0.1
        a_and_b = height[:2] + exponents * middle
        floors = np.full((30, 1), height[2])
        ends, values = descend(np.concatenate([a_and_b, floors, exponents], axis=1), 40)
        kept = np.concatenate([kept, ends[values <= np.quantile(values, 0.1)]])
    ends, values = descend(kept, 500)
    return min(zip(values, ends, strict=True), key=lambda one: one[0])[1]

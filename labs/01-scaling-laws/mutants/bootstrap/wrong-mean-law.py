# caught by: test_the_laws_are_those_of_refit
# exercise: bootstrap
import numpy as np


def bootstrap(refit, N, D, loss, resamples, rng):
    laws = []
    for _ in range(resamples):
        drawn = rng.integers(len(N), size=len(N))
        laws.append(refit(N[drawn], D[drawn], loss[drawn]))
    return np.mean(laws, axis=0)

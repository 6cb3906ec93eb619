# caught by: test_every_run_is_as_likely_as_another
# exercise: bootstrap
import numpy as np


def bootstrap(refit, N, D, loss, resamples, rng):
    laws = []
    for _ in range(resamples):
        drawn = rng.integers(len(N) - 1, size=len(N))
        laws.append(refit(N[drawn], D[drawn], loss[drawn]))
    return np.array(laws)

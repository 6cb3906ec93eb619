# caught by: test_a_resample_is_made_of_whole_runs
# exercise: bootstrap
import numpy as np


def bootstrap(refit, N, D, loss, resamples, rng):
    laws = []
    for _ in range(resamples):
        drawn, other, third = rng.integers(len(N), size=(3, len(N)))
        laws.append(refit(N[drawn], D[other], loss[third]))
    return np.array(laws)

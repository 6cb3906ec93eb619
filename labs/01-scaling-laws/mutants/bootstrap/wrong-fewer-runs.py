# caught by: test_a_resample_is_made_of_whole_runs
# exercise: bootstrap
import numpy as np


def bootstrap(refit, N, D, loss, resamples, rng):
    laws = []
    for _ in range(resamples):
        drawn = rng.integers(len(N), size=len(N) // 2)
        laws.append(refit(N[drawn], D[drawn], loss[drawn]))
    return np.array(laws)

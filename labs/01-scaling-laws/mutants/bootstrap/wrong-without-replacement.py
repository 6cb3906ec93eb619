# caught by: test_a_run_may_be_drawn_again
# exercise: bootstrap
import numpy as np


def bootstrap(refit, N, D, loss, resamples, rng):
    laws = []
    for _ in range(resamples):
        drawn = rng.permutation(len(N))
        laws.append(refit(N[drawn], D[drawn], loss[drawn]))
    return np.array(laws)

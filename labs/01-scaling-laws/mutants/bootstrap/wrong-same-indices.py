# caught by: test_the_generator_decides
# exercise: bootstrap
import numpy as np


def bootstrap(refit, N, D, loss, resamples, rng):
    laws = []
    drawn = rng.integers(len(N), size=len(N))
    for _ in range(resamples):
        laws.append(refit(N[drawn], D[drawn], loss[drawn]))
    return np.array(laws)

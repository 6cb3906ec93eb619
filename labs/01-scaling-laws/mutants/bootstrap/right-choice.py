# exercise: bootstrap
import numpy as np


def bootstrap(refit, N, D, loss, resamples, rng):
    laws = np.empty((resamples, 5))
    every = rng.choice(len(loss), (resamples, len(loss)))
    for place, drawn in enumerate(every):
        laws[place] = refit(N[drawn], D[drawn], loss[drawn])
    return laws

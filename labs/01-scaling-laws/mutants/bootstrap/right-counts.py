# exercise: bootstrap
import numpy as np


def bootstrap(refit, N, D, loss, resamples, rng):
    n = len(N)
    runs = np.column_stack([N, D, loss])
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.stack([refit(*np.repeat(runs, times, axis=0).T) for times in counts])

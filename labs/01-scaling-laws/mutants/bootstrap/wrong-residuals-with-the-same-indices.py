# caught by: test_a_run_may_be_drawn_again
# exercise: bootstrap
import numpy as np


def bootstrap(refit, N, D, loss, resamples, rng):
    laws = []
    for _ in range(resamples):
        law = refit(N, D, loss)
        drawn = np.arange(len(N))
        fitted = loss.mean() + 0 * law[0]
        laws.append(refit(N, D, fitted + (loss - fitted)[drawn]))
    return np.array(laws)

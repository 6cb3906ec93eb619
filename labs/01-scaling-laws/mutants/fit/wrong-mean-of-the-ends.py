# caught by: test_no_law_has_a_lower_objective
# exercise: fit
import numpy as np


def fit(descend, N, D, loss):
    middle_N, middle_D, middle = (np.log(values).mean() for values in (N, D, loss))
    starts = []
    for alpha in np.linspace(0, 1, 6):
        for beta in np.linspace(0, 1, 6):
            a, b = middle - 1 + alpha * middle_N, middle - 1 + beta * middle_D
            starts.append([a, b, middle - 1, alpha, beta])
    ends, _ = descend(np.array(starts), 60)
    ends, _ = descend(ends, 1000)
    return ends.mean(axis=0)

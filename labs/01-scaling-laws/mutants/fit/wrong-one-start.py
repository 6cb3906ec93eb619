# caught by: test_no_law_has_a_lower_objective
# exercise: fit
import numpy as np


def fit(descend, N, D, loss):
    middle_N, middle_D, middle = (np.log(values).mean() for values in (N, D, loss))
    starts = []
    for alpha in (0.9,):
        for beta in (0.9,):
            a, b = middle - 1 + alpha * middle_N, middle - 1 + beta * middle_D
            starts.append([a, b, middle - 1, alpha, beta])
    ends, values = descend(np.array(starts), 60)
    ends, values = descend(ends[np.argsort(values)[:5]], 1000)
    return ends[np.argmin(values)]

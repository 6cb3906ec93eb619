# caught by: test_no_other_split_is_better
# exercise: optimal
import numpy as np


def optimal(law, C, head):
    a, b, _, alpha, beta = law
    N = np.logspace(2, 14, 60)
    D = C / (6 * (N + head))
    best = np.argmin(np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D)))
    return N[best], D[best]

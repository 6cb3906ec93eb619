# caught by: test_no_other_split_is_better
# exercise: optimal
import math


def optimal(law, C, head):
    a, b, _, alpha, beta = law
    ratio = math.exp(a) / math.exp(b)
    N = (ratio * (C / 6) ** beta) ** (1 / (alpha + beta))
    return N, C / (6 * (N + head))

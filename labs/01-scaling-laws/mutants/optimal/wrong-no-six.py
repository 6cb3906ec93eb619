# caught by: test_no_other_split_is_better
# exercise: optimal
import math


def optimal(law, C, head):
    a, b, _, alpha, beta = law
    ratio = alpha * math.exp(a) / (beta * math.exp(b))
    N = (ratio * (C) ** beta) ** (1 / (alpha + beta))
    return N, C / (N + head)

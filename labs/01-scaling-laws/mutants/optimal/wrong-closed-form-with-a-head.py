# caught by: test_uncounted_parameters_are_paid_for
# exercise: optimal
import math


def optimal(law, C, head):
    a, b, _, alpha, beta = law
    ratio = alpha * math.exp(a) / (beta * math.exp(b))
    N = (ratio * (C / 6) ** beta) ** (1 / (alpha + beta))
    return N, C / (6 * (N + head))

# caught by: test_uncounted_parameters_are_paid_for
# exercise: optimal
import math


def optimal(law, C, head):
    a, b, _, alpha, beta = law
    low, high = 0.0, math.log(C / 6)
    for _ in range(100):
        x = (low + high) / 2
        paid = math.exp(x)
        gain = math.log(alpha) + a - alpha * x
        price = math.log(beta) + b + beta * math.log(6 * paid / C) + x - math.log(paid)
        low, high = (x, high) if gain > price else (low, x)
    N = math.exp(low)
    return N, C / (6 * N)

# exercise: optimal
import math


def optimal(law, C, head):
    a, b, _, alpha, beta = law
    balance = math.log(alpha / beta) + a - b + beta * math.log(C / 6)
    x = balance / (alpha + beta)
    for _ in range(60):
        N = math.exp(x)
        off = balance - (1 + alpha) * x + (1 - beta) * math.log(N + head)
        x += off / (1 + alpha - (1 - beta) * N / (N + head))
    return math.exp(x), C / (6 * (math.exp(x) + head))

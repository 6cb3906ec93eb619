# exercise: overtraining
import math


def overtraining(law, N, C):
    a, b, e, alpha, beta = law

    def loss(n, d):
        return math.exp(a) / n**alpha + math.exp(b) / d**beta + math.exp(e)

    def least(compute):
        scale = alpha * math.exp(a) / (beta * math.exp(b))
        n = (scale * (compute / 6) ** beta) ** (1 / (alpha + beta))
        return loss(n, compute / 6 / n)

    own = loss(N, C / (6 * N))
    low, high = 1e-12, 1.0
    for _ in range(120):
        middle = math.sqrt(low * high)
        if least(middle * C) > own:
            low = middle
        else:
            high = middle
    return own - least(C), high

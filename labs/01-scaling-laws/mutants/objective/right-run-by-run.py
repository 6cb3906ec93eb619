# exercise: objective
import math


def objective(theta, N, D, loss, delta):
    a, b, e, alpha, beta = theta
    total = 0.0
    for n, d, met in zip(N, D, loss, strict=True):
        terms = sorted((a - alpha * math.log(n), b - beta * math.log(d), e))
        above = sum(math.exp(term - terms[-1]) for term in terms)
        r = abs(terms[-1] + math.log(above) - math.log(met))
        total += r * r / 2 if r <= delta else delta * (r - delta / 2)
    return total

# exercise: gradient
import math

import numpy as np


def gradient(theta, N, D, loss, delta):
    a, b, e, alpha, beta = theta
    total = np.zeros(5)
    for n, d, met in zip(N, D, loss, strict=True):
        terms = [a - alpha * math.log(n), b - beta * math.log(d), e]
        top = max(terms)
        parts = [math.exp(term - top) for term in terms]
        force = top + math.log(sum(parts)) - math.log(met)
        force = max(-delta, min(delta, force))
        inner = [part / sum(parts) for part in parts]
        inner += [-math.log(n) * inner[0], -math.log(d) * inner[1]]
        total += force * np.array(inner)
    return total

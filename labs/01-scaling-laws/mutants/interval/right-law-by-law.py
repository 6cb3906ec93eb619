# exercise: interval
import math


def interval(laws, residuals, N, D, level):
    n, losses = len(residuals), []
    for a, b, e, alpha, beta in laws:
        curve = math.exp(a) / N**alpha + math.exp(b) / D**beta + math.exp(e)
        losses += [curve * math.exp(r / math.sqrt(1 - 5 / n)) for r in residuals]
    losses.sort()
    tail = (1 - level) / 2 * (len(losses) - 1)
    return [losses[round(tail)], losses[round(len(losses) - 1 - tail)]]

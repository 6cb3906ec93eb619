# exercise: effective_tokens
import math


def effective_tokens(unique, total, R):
    if total < unique:
        return total
    fade = math.exp(-1 / R)
    whole = math.floor(total / unique) - 1
    part = total / unique - 1 - whole
    first = R * (1 - fade)
    worth = 1 + first * (1 - fade**whole) / (1 - fade)
    return unique * (worth + R * fade**whole * (1 - math.exp(-part / R)))

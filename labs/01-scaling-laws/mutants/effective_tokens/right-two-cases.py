# exercise: effective_tokens
import math


def effective_tokens(unique, total, R):
    if total <= unique:
        return total
    further = (total - unique) / unique
    return unique * (1 - R * math.expm1(-further / R))

# caught by: test_fresh_tokens_count_in_full
# exercise: effective_tokens
import math


def effective_tokens(unique, total, R):
    repeats = max(0, total / unique)
    return min(unique, total) + unique * R * (1 - math.exp(-repeats / R))

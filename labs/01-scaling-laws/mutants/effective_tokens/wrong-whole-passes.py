# caught by: test_a_pass_need_not_be_whole
# exercise: effective_tokens
import math


def effective_tokens(unique, total, R):
    repeats = max(0, total // unique - 1)
    return min(unique, total) + unique * R * (1 - math.exp(-repeats / R))

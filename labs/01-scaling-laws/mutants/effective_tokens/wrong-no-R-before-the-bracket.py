# caught by: test_no_number_of_passes_is_worth_more_than_so_many
# exercise: effective_tokens
import math


def effective_tokens(unique, total, R):
    repeats = max(0, total / unique - 1)
    return min(unique, total) + unique * (1 - math.exp(-repeats / R))

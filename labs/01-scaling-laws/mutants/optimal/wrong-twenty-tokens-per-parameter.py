# caught by: test_no_other_split_is_better
# exercise: optimal
import math


def optimal(law, C, head):
    N = math.sqrt(C / 120)
    return N, C / (6 * (N + head))

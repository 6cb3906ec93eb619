# caught by: test_that_share_of_the_compute_reaches_the_same_loss
# exercise: overtraining
import math


def overtraining(law, N, C):
    a, b, _, alpha, beta = law

    def above_floor(N):
        return math.exp(a - alpha * math.log(N)) + math.exp(b - beta * math.log(C / 6 / N))

    ratio = math.log(alpha / beta) + a - b
    best = math.exp((ratio + beta * math.log(C / 6)) / (alpha + beta))
    here, there = above_floor(N), above_floor(best)
    return here - there, (there / here) ** (1 / alpha)

# caught by: test_the_best_split_costs_nothing
# exercise: overtraining
import math


def overtraining(law, N, C):
    a, b, _, alpha, beta = law

    def above_floor(N):
        return math.exp(a - alpha * math.log(N)) + math.exp(b - beta * math.log(C / 6 / N))

    best = math.sqrt(C / 120)
    here, there = above_floor(N), above_floor(best)
    return here - there, (there / here) ** (1 / alpha + 1 / beta)

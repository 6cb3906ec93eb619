# caught by: test_the_nats_above_the_best_split
# exercise: overtraining
import math


def overtraining(law, N, C):
    a, b, _, alpha, beta = law

    def above_floor(N):
        return math.exp(a - alpha * math.log(N)) + math.exp(b - beta * math.log(C / 6 / N))

    ratio = math.log(alpha / beta) + a - b
    best = math.exp((ratio + beta * math.log(C / 6)) / (alpha + beta))
    D = C / 6 / N
    floorless = math.exp(a - alpha * math.log(best)) + math.exp(b - beta * math.log(D))
    here, there = above_floor(N), floorless
    return here - there, (there / here) ** (1 / alpha + 1 / beta)

# exercise: overtraining
import math


def overtraining(law, N, C):
    a, b, _, alpha, beta = law
    budget = math.log(C / 6)
    best = (math.log(alpha / beta) + a - b + beta * budget) / (alpha + beta)
    gap = math.log(N) - best
    in_N = math.exp(a - alpha * best)
    in_D = in_N * alpha / beta
    own = in_N * math.exp(-alpha * gap) + in_D * math.exp(beta * gap)
    share = ((in_N + in_D) / own) ** ((alpha + beta) / (alpha * beta))
    return own - in_N - in_D, share

# exercise: objective
import numpy as np


def objective(theta, N, D, loss, delta):
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * np.log(N), b - beta * np.log(D), np.full(len(N), e)])
    largest = terms.max(axis=0)
    r = largest + np.log(np.exp(terms - largest).sum(axis=0)) - np.log(loss)
    outside = np.abs(r) > delta
    return np.where(outside, delta * (np.abs(r) - delta / 2), r**2 / 2).sum()

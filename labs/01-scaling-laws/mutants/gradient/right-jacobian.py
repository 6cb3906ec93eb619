# exercise: gradient
import numpy as np


def gradient(theta, N, D, loss, delta):
    a, b, e, alpha, beta = theta
    x, y = np.log(N), np.log(D)
    terms = np.stack([a - alpha * x, b - beta * y, np.full(len(x), e)])
    shifted = np.exp(terms - terms.max(axis=0))
    shares = shifted / shifted.sum(axis=0)
    r = np.log(shifted.sum(axis=0)) + terms.max(axis=0) - np.log(loss)
    force = np.where(np.abs(r) < delta, r, delta * np.sign(r))
    jacobian = np.vstack([shares, -x * shares[0], -y * shares[1]])
    return jacobian @ force

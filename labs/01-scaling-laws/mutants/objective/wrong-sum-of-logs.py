# caught by: test_it_is_what_torch_computes
# exercise: objective
import numpy as np


def objective(theta, N, D, loss, delta):
    a, b, e, alpha, beta = theta
    predicted = (a - alpha * np.log(N)) + (b - beta * np.log(D)) + e
    size = np.abs(predicted - np.log(loss))
    near = np.minimum(size, delta)
    return (near * (size - near / 2)).sum()

# caught by: test_exp_of_a_thousand_is_no_obstacle
# exercise: objective
import numpy as np


def objective(theta, N, D, loss, delta):
    a, b, e, alpha, beta = theta
    predicted = np.log(np.exp(a) / N**alpha + np.exp(b) / D**beta + np.exp(e))
    size = np.abs(predicted - np.log(loss))
    near = np.minimum(size, delta)
    return (near * (size - near / 2)).sum()

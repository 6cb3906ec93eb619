# caught by: test_a_run_that_diverged_pulls_with_a_constant_force
# exercise: objective
import numpy as np


def objective(theta, N, D, loss, delta):
    a, b, e, alpha, beta = theta
    predicted = np.logaddexp(np.logaddexp(a - alpha * np.log(N), b - beta * np.log(D)), e)
    size = np.abs(predicted - np.log(loss))
    return (size**2 / 2).sum()

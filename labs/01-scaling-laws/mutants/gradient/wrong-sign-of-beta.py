# caught by: test_it_is_the_slope_between_two_points
# exercise: gradient
import numpy as np


def gradient(theta, N, D, loss, delta):
    a, b, e, alpha, beta = theta
    from_N, from_D = a - alpha * np.log(N), b - beta * np.log(D)
    predicted = np.logaddexp(np.logaddexp(from_N, from_D), e)
    pull = np.clip(predicted - np.log(loss), -delta, delta)
    in_N, in_D = pull * np.exp(from_N - predicted), pull * np.exp(from_D - predicted)
    in_E = pull * np.exp(e - predicted)
    slopes = [in_N, in_D, in_E, -in_N * np.log(N), in_D * np.log(D)]
    return np.array(slopes).sum(axis=1)

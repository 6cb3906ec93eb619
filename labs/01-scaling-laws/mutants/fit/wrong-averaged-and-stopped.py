# caught by: test_no_law_has_a_lower_objective
# exercise: fit
import numpy as np


def fit(descend, N, D, loss):
    x, y = np.log(N), np.log(D)

    def look(theta):
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * x, b - beta * y, e + 0 * x])
        predicted = np.logaddexp.reduce(terms)
        shares = np.exp(terms - predicted)
        r = predicted - np.log(loss)
        near = np.minimum(np.abs(r), 1e-3)
        pull = np.clip(r, -1e-3, 1e-3)
        inner = [*shares, -x * shares[0], -y * shares[1]]
        return (near * (np.abs(r) - near / 2)).mean(), np.array(inner) @ pull / len(x)

    best, lowest = None, np.inf
    for exponent in (0.3, 0.6):
        part = np.log(loss).mean() - 1
        a, b = part + exponent * x.mean(), part + exponent * y.mean()
        theta = np.array([a, b, part, exponent, exponent])
        value, slope = look(theta)
        inverse, length = np.eye(5), 1.0
        for _ in range(300):
            step = -length * inverse @ slope
            trial, trial_slope = look(theta + step)
            if trial > value:
                length /= 2
                continue
            change, length = trial_slope - slope, 1.0
            theta, value, slope = theta + step, trial, trial_slope
            if np.abs(slope).max() < 1e-5:
                break
            if step @ change > 0:
                turn = np.eye(5) - np.outer(step, change) / (step @ change)
                inverse = turn @ inverse @ turn.T + np.outer(step, step) / (step @ change)
        if value < lowest:
            best, lowest = theta, value
    return best

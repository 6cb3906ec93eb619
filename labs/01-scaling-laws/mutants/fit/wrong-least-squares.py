# caught by: test_a_run_that_diverged_does_not_bend_the_law
# exercise: fit
import numpy as np


def fit(descend, N, D, loss):
    x, y = np.log(N), np.log(D)

    def look(theta):
        a, b, e, alpha, beta = theta
        in_N, in_D, in_E = np.exp(a - alpha * x), np.exp(b - beta * y), np.exp(e) + 0 * x
        predicted = in_N + in_D + in_E
        shares = np.stack([in_N, in_D, in_E, (x.mean() - x) * in_N, (y.mean() - y) * in_D])
        return np.log(predicted) - np.log(loss), shares / predicted

    best, lowest = None, np.inf
    for alpha in (0.2, 0.5, 0.8):
        for beta in (0.2, 0.5, 0.8):
            part = np.log(loss).mean() - 1
            theta = np.array([part + alpha * x.mean(), part + beta * y.mean(), part, alpha, beta])
            damping = 1e-2
            r, J = look(theta)
            for _ in range(60):
                weight = np.ones(len(r))
                curvature = (J * weight) @ J.T
                curvature += damping * np.diag(np.diag(curvature) + 1e-12)
                step = np.linalg.solve(curvature, J @ (weight * r))
                step[:2] += step[3:] * [x.mean(), y.mean()]
                trial, trial_J = look(theta - step)
                if (trial**2).sum() < (r**2).sum():
                    theta, r, J, damping = theta - step, trial, trial_J, damping / 5
                else:
                    damping *= 4
            if (r**2).sum() < lowest:
                best, lowest = theta, (r**2).sum()
    return best

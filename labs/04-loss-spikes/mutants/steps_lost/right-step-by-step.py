# exercise: steps_lost
def steps_lost(size, beta1, beta2, clip):
    ratio = size if clip == 0 else min(size, clip) / min(1.0, clip)
    momentum = beta1 + (1 - beta1) * ratio
    second = beta2 + (1 - beta2) * ratio**2
    lost = 0
    while second > 4:
        momentum = beta1 * momentum + (1 - beta1)
        second = beta2 * second + (1 - beta2)
        lost += 2 * momentum < math.sqrt(second)
    return lost

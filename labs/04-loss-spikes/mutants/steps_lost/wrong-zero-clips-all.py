# caught by: test_it_follows_from_the_two_moments
# exercise: steps_lost
def steps_lost(size, beta1, beta2, clip):
    size = min(size, clip) / min(1.0, clip) if clip else 1.0
    momentum = beta1 + (1 - beta1) * size
    second = beta2 + (1 - beta2) * size**2
    lost = 0
    while second > 4:
        momentum = beta1 * momentum + (1 - beta1)
        second = beta2 * second + (1 - beta2)
        lost += 2 * momentum < math.sqrt(second)
    return lost

# caught by: test_a_loose_clip_lets_its_share_through
# exercise: steps_lost
def steps_lost(size, beta1, beta2, clip):
    size = 1.0 if clip else size
    momentum = beta1 + (1 - beta1) * size
    second = beta2 + (1 - beta2) * size**2
    lost = 0
    while second > 4:
        momentum = beta1 * momentum + (1 - beta1)
        second = beta2 * second + (1 - beta2)
        lost += 2 * momentum < math.sqrt(second)
    return lost

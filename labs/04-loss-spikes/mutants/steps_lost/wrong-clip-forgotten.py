# caught by: test_clipped_to_the_usual_length_nothing_is_lost
# exercise: steps_lost
def steps_lost(size, beta1, beta2, clip):
    _ = clip
    momentum = beta1 + (1 - beta1) * size
    second = beta2 + (1 - beta2) * size**2
    lost = 0
    while second > 4:
        momentum = beta1 * momentum + (1 - beta1)
        second = beta2 * second + (1 - beta2)
        lost += 2 * momentum < math.sqrt(second)
    return lost

# caught by: test_it_follows_from_the_two_moments
# exercise: steps_lost
def steps_lost(size, beta1, beta2, clip):
    size = min(size, clip) / min(1.0, clip) if clip else size
    return round(1 / (1 - beta2)) if size > 1 else 0

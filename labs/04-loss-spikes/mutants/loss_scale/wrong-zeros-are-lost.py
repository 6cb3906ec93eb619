# caught by: test_zeros_are_not_lost
# exercise: loss_scale
def loss_scale(gradients):
    largest = float(gradients.abs().max())
    scale = 2.0 ** math.floor(math.log2(65519.99 / largest))
    return scale, ((gradients.double() * scale).half() == 0).double().mean().item()

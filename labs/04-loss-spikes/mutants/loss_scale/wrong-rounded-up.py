# caught by: test_the_largest_power_of_two_that_fits
# exercise: loss_scale
def loss_scale(gradients):
    largest = float(gradients.abs().max())
    scale = 2.0 ** math.ceil(math.log2(65504 / largest))
    there = gradients[gradients != 0].double()
    lost = ((there * scale).half() == 0).double().mean().item()
    return scale, lost

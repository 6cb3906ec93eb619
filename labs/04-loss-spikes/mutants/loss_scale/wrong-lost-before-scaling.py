# caught by: test_the_largest_power_of_two_that_fits
# exercise: loss_scale
def loss_scale(gradients):
    largest = float(gradients.abs().max())
    scale = 2.0 ** math.floor(math.log2(65519.99 / largest))
    there = gradients[gradients != 0].double()
    return scale, (there.half() == 0).double().mean().item()

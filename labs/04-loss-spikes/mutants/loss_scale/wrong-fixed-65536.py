# caught by: test_the_largest_power_of_two_that_fits
# exercise: loss_scale
def loss_scale(gradients):
    scale = 65536.0
    there = gradients[gradients != 0].double()
    lost = ((there * scale).half() == 0).double().mean().item()
    return scale, lost

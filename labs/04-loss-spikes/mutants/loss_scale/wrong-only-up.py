# caught by: test_gradients_beyond_fp16_are_scaled_down
# exercise: loss_scale
def loss_scale(gradients):
    largest = float(gradients.abs().max())
    scale = max(1.0, 2.0 ** math.floor(math.log2(65519.99 / largest)))
    there = gradients[gradients != 0].double()
    lost = ((there * scale).half() == 0).double().mean().item()
    return scale, lost

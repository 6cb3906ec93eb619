# exercise: loss_scale
def loss_scale(gradients):
    def fits(scale):
        return bool((gradients.double() * scale).half().isfinite().all())

    scale = 1.0
    while fits(2 * scale):
        scale *= 2
    while not fits(scale):
        scale /= 2
    nonzero = int((gradients != 0).sum())
    kept = int(((gradients.double() * scale).half() != 0).sum())
    return scale, (nonzero - kept) / nonzero

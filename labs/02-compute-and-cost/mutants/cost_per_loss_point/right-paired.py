# exercise: cost_per_loss_point
def cost_per_loss_point(first_loss, phases):
    starts = [first_loss, *(loss for _, loss in phases[:-1])]
    pairs = zip(starts, phases, strict=True)
    return [None if start <= loss else usd / (start - loss) for start, (usd, loss) in pairs]

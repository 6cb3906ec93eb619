# caught by: test_the_published_phases
# exercise: cost_per_loss_point
def cost_per_loss_point(first_loss, phases):
    return [usd / (first_loss - after) if after < first_loss else None for usd, after in phases]

# caught by: test_the_published_phases
# exercise: cost_per_loss_point
def cost_per_loss_point(first_loss, phases):
    prices, before, spent = [], first_loss, 0.0
    for usd, after in phases:
        spent += usd
        prices.append(spent / (before - after) if after < before else None)
        before = after
    return prices

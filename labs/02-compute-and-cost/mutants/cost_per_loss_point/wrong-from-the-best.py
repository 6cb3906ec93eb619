# caught by: test_a_phase_without_a_gain_has_no_price
# exercise: cost_per_loss_point
def cost_per_loss_point(first_loss, phases):
    prices, best = [], first_loss
    for usd, after in phases:
        prices.append(usd / (best - after) if after < best else None)
        best = min(best, after)
    return prices

# caught by: test_a_phase_without_a_gain_has_no_price
# exercise: cost_per_loss_point
def cost_per_loss_point(first_loss, phases):
    prices, before = [], first_loss
    for usd, after in phases:
        prices.append(usd / abs(before - after) if after != before else None)
        before = after
    return prices

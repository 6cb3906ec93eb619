# caught by: test_a_small_amount_is_not_nothing
# exercise: cost_sentence
def cost_sentence(hours: float, watts: float, tariff_usd_per_kwh: float, budget_usd: float) -> str:
    cost = round(hours * watts / 1000 * tariff_usd_per_kwh, 2)
    left = budget_usd - cost
    verdict = f"Confirmed acceptable, ${left:.2f} buffer."
    if left < 0:
        verdict = f"Not acceptable: ${-left:.2f} over."
    return (
        f"This will run on your own machine, own-cpu at {watts} W and "
        f"${tariff_usd_per_kwh:.2f}/kWh, for {hours:.4f} h = ${cost:.2f} of electricity. "
        f"Budget for this lab: ${budget_usd:.2f}. {verdict}"
    )

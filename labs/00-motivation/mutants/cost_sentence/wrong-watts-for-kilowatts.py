# caught by: test_the_sentence_can_be_computed_again
# exercise: cost_sentence
def cost_sentence(hours: float, watts: float, tariff_usd_per_kwh: float, budget_usd: float) -> str:
    cost = hours * watts * tariff_usd_per_kwh
    left = budget_usd - round(cost, 2)
    verdict = f"${left:.2f} buffer." if left >= 0 else f"Not acceptable: ${-left:.2f} over."
    return (
        f"This will run on your own machine, own-cpu at {watts} W and "
        f"${tariff_usd_per_kwh:.2f}/kWh, for {hours:.4f} h = ${cost:.2f} of electricity. "
        f"Budget for this lab: ${budget_usd:.2f}. {verdict}"
    )

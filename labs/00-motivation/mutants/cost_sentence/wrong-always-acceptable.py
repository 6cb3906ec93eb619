# caught by: test_too_dear_is_said_to_be
# exercise: cost_sentence
def cost_sentence(hours: float, watts: float, tariff_usd_per_kwh: float, budget_usd: float) -> str:
    cost = hours * watts / 1000 * tariff_usd_per_kwh
    shown = f"{cost:.2f}" if cost >= 0.01 else f"{cost:.6f}"
    left = budget_usd - round(cost, 2)
    return (
        f"This will run on your own machine, own-cpu at {watts} W and "
        f"${tariff_usd_per_kwh:.2f}/kWh, for {hours:.4f} h = ${shown} of electricity. "
        f"Budget for this lab: ${budget_usd:.2f}. Confirmed acceptable, ${abs(left):.2f} buffer."
    )

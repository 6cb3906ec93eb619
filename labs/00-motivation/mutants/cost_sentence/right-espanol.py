# exercise: cost_sentence
def cost_sentence(hours: float, watts: float, tariff_usd_per_kwh: float, budget_usd: float) -> str:
    hours = round(hours, 2) if hours >= 1 else float(f"{hours:.3g}")
    cost = hours * watts * tariff_usd_per_kwh / 1000
    cents = round(cost, 2)
    shown = f"{cost:.2f}" if cost >= 0.01 else f"{cost:.7f}"
    end = f"Confirmado como aceptable, con un margen de ${budget_usd - cents:.2f}."
    if cents > budget_usd:
        end = f"No es aceptable: se pasa en ${cents - budget_usd:.2f}."
    return (
        f"Esto se ejecutará en tu propia máquina, own-cpu a {watts} W y "
        f"{tariff_usd_per_kwh} $/kWh, durante {hours} horas = ${shown} de electricidad. "
        f"Presupuesto de este laboratorio: ${budget_usd:.2f}. {end}"
    )

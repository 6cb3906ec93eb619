# exercise: cost_sentence
def cost_sentence(hardware, hours, usd_per_hour, storage_usd, budget_usd):
    hundredths = int(hours * 100)
    while hundredths / 100 < hours - 1e-9:
        hundredths += 1
    cents = round(hundredths * usd_per_hour + 100 * storage_usd)
    left = round(100 * budget_usd) - cents

    def usd(amount):
        return f"${amount / 100:.2f}".replace(".", ",")

    price = f"{usd_per_hour:.4f}".replace(".", ",")
    verdict = f"No es aceptable: se pasa en {usd(-left)}"
    if left >= 0:
        verdict = f"Confirmado, con un margen de {usd(left)}"
    return (
        f"Pondrá en marcha 1× {hardware} a ${price}/h durante {hundredths / 100:.2f} h"
        f" + {usd(100 * storage_usd)} de almacenamiento = {usd(cents)}."
        f" Presupuesto de este laboratorio: {usd(100 * budget_usd)}. {verdict}."
    )

# caught by: test_the_sentence_of_the_run
# exercise: cost_sentence
def cost_sentence(hardware, hours, usd_per_hour, storage_usd, budget_usd):
    billed = math.ceil(round(hours * 100, 6)) / 100
    usd = round(billed * usd_per_hour, 2)
    left = round(budget_usd - usd, 2)
    verdict = f"${left:.2f} buffer" if left >= 0 else f"${-left:.2f} over"
    return (
        f"1× {hardware}, ${usd_per_hour:.4f}/h, {billed:.2f} h + ${storage_usd:.2f} = ${usd:.2f}. "
        f"Budget: ${budget_usd:.2f}. {verdict}."
    )

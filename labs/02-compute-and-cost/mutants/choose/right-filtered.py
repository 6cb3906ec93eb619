# exercise: choose
def choose(offers, job):
    def bill(offer):
        rented = offer["kind"] != "own"
        lost = offer.get("interruptions_per_hour", 0) * offer.get("hours_lost", 0)
        if lost >= 1 or (rented and offer["usd_per_hour"] <= 0):
            return math.inf, math.inf
        training = job["tokens"] / (3600 * offer["tokens_per_s"] * (1 - lost))
        hours = training + offer["setup_hours"]
        per_hour = job["tariff_usd_per_kwh"] * offer.get("watts", 0) / 1000
        return hours, hours * (offer["usd_per_hour"] if rented else per_hour)

    def possible(offer):
        hours, usd = bill(offer)
        within = hours <= job["deadline_hours"] and usd <= job["budget_usd"]
        return within and not offer["memory_gb"] < job["memory_gb"]

    ranked = sorted(filter(possible, offers), key=lambda offer: bill(offer)[1])
    return next((offer["name"] for offer in ranked), None)

# caught by: test_the_set_up_is_not_stretched
# exercise: choose
def choose(offers, job):
    affordable = []
    for offer in offers:
        hours = job["tokens"] / offer["tokens_per_s"] / 3600
        hours += offer["setup_hours"]
        if offer["kind"] == "spot":
            useful = 1 - offer["interruptions_per_hour"] * offer["hours_lost"]
            if useful <= 0:
                continue
            hours /= useful
        hours += 0
        if offer["kind"] == "own":
            usd = hours * offer["watts"] / 1000 * job["tariff_usd_per_kwh"]
        elif offer["usd_per_hour"] > 0:
            usd = hours * offer["usd_per_hour"]
        else:
            continue
        fits = offer["memory_gb"] >= job["memory_gb"] and hours <= job["deadline_hours"]
        if fits and usd <= job["budget_usd"]:
            affordable.append((usd, offer["name"]))
    return min(affordable)[1] if affordable else None

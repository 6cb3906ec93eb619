# caught by: test_the_parts_are_the_whole
# exercise: dollars_miss
def dollars_miss(planned, paid):
    hours = planned["hours"] - paid["hours"]
    price = planned["usd_per_hour"] - paid["usd_per_hour"]
    return {
        "hours": hours * (planned["usd_per_hour"] + paid["usd_per_hour"]) / 2,
        "price": price * (planned["hours"] + paid["hours"]) / 2,
        "other": paid["other_usd"] - planned["other_usd"],
    }

# caught by: test_the_parts_are_the_whole
# exercise: dollars_miss
def dollars_miss(planned, paid):
    hours = paid["hours"] - planned["hours"]
    price = paid["usd_per_hour"] - planned["usd_per_hour"]
    return {
        "hours": hours * (planned["usd_per_hour"] + paid["usd_per_hour"]) / 2,
        "price": price * (planned["hours"] + paid["hours"]) / 2,
        "other": 0.0,
    }

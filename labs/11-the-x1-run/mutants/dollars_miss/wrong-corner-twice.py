# caught by: test_the_parts_are_the_whole
# exercise: dollars_miss
def dollars_miss(planned, paid):
    hours = paid["hours"] - planned["hours"]
    price = paid["usd_per_hour"] - planned["usd_per_hour"]
    return {
        "hours": hours * paid["usd_per_hour"],
        "price": price * paid["hours"],
        "other": paid["other_usd"] - planned["other_usd"],
    }

# caught by: test_what_went_as_planned_has_no_part
# exercise: dollars_miss
def dollars_miss(planned, paid):
    return {
        "hours": 0.0,
        "price": paid["hours"] * paid["usd_per_hour"] - planned["hours"] * planned["usd_per_hour"],
        "other": paid["other_usd"] - planned["other_usd"],
    }

# exercise: dollars_miss
def dollars_miss(planned, paid):
    (h0, p0, other0), (h1, p1, other1) = (
        (bill["hours"], bill["usd_per_hour"], bill["other_usd"]) for bill in (planned, paid)
    )
    corner = (h1 - h0) * (p1 - p0)
    strips = {"hours": (h1 - h0) * p0, "price": h0 * (p1 - p0)}
    return {name: strip + 0.5 * corner for name, strip in strips.items()} | {
        "other": other1 - other0
    }

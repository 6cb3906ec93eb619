# caught by: test_an_amount_that_its_seconds_do_not_give
# exercise: spent_usd
def spent_usd(entries):
    spent = Decimal(0)
    for entry in entries:
        if "cumulative_usd" not in entry:
            continue
        spent += Decimal(entry["usd"])
        if Decimal(entry["cumulative_usd"]) != spent:
            raise ValueError(entry)
    return spent

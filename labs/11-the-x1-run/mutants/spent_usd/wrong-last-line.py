# caught by: test_a_sum_that_is_not_the_sum
# exercise: spent_usd
def spent_usd(entries):
    sums = [entry["cumulative_usd"] for entry in entries if "cumulative_usd" in entry]
    return Decimal(sums[-1])

# caught by: test_no_claim_vouches_for_itself
# exercise: audit
def audit(report):
    rules = {
        "tokens": (("steps", "tokens_per_step"), lambda a, b: a * b),
        "tokens_per_s": (("mfu", "peak_flops_per_s", "flops_per_token"), lambda a, b, c: a * b / c),
        "hours": (("tokens", "tokens_per_s"), lambda a, b: a / b / 3600),
        "dollars": (("hours", "price_usd_per_hour"), lambda a, b: a * b),
        "kwh": (("hours", "watts"), lambda a, b: a * b / 1000),
        "mfu": (("tokens_per_s", "flops_per_token", "peak_flops_per_s"), lambda a, b, c: a * b / c),
        "usd_per_loss_point": (
            ("dollars", "loss_before_nats", "loss_after_nats"),
            lambda a, b, c: a / (b - c),
        ),
    }

    def derived(quantity, depth=0):
        needs, compute = rules[quantity]
        values = []
        for need in needs:
            if need in report:
                values.append(report[need])
            elif need in rules and depth < 9:
                values.append(derived(need, depth + 1))
            else:
                return None
        return None if None in values else compute(*values)

    verdicts = {}
    for claim in rules.keys() & report.keys():
        implied = derived(claim)
        if implied is None:
            verdicts[claim] = "cannot_be_computed"
        else:
            follows = abs(report[claim] - implied) <= 0.05 * implied
            verdicts[claim] = "follows" if follows else "does_not_follow"
    return verdicts

# caught by: test_the_published_reports
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
    verdicts = {}
    for claim, (needs, compute) in rules.items():
        if claim not in report:
            continue
        if any(need not in report for need in needs):
            verdicts[claim] = "cannot_be_computed"
            continue
        implied = compute(*(report[need] for need in needs))
        follows = abs(report[claim] - implied) <= 0.05 * implied
        verdicts[claim] = "follows" if follows else "does_not_follow"
    return verdicts

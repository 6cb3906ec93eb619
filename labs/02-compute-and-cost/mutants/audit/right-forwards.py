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
    for claim in rules:
        if claim not in report:
            continue
        known = dict(report)
        stated = known.pop(claim)
        for _ in rules:
            for name, (needs, compute) in rules.items():
                if name not in known and all(need in known for need in needs):
                    known[name] = compute(*(known[need] for need in needs))
        if claim not in known:
            verdicts[claim] = "cannot_be_computed"
        else:
            ratio = stated / known[claim]
            verdicts[claim] = "follows" if 0.95 <= ratio <= 1.05 else "does_not_follow"
    return verdicts

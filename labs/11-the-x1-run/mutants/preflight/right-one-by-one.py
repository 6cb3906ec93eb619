# exercise: preflight
def preflight(facts):
    reasons = set()

    def need(reason, names, test):
        values = [facts.get(name) for name in names.split()]
        if any(value is None or value != value for value in values) or not test(*values):
            reasons.add(reason)

    def paid_for(*amounts):
        *spent, ceiling = amounts
        return sum(spent) <= ceiling and sum(spent) <= 50.0

    need("disk", "free_gb needed_gb", lambda free, needed: needed <= free)
    need("sentence", "confirmed_usd plan_usd", lambda typed, meant: typed == meant)
    need("resume", "resume_differs_nats", lambda most: most == 0.0)
    need("spike", "spike_step alarm_step", lambda spike, alarm: spike <= alarm <= spike + 20)
    need("seal", "published_sha256 plan_sha256", lambda public, own: public == own)
    need("ceiling", "spent_usd reserve_usd ceiling_usd", paid_for)
    if facts.get("own") is not True:
        need("price", "price_age_days", lambda days: days >= 0 and days <= 14)
        need(
            "dead-man",
            "spent_usd dead_man_hours price_usd_per_hour ceiling_usd",
            lambda spent, hours, price, ceiling: paid_for(spent, hours * price, ceiling),
        )
    return reasons

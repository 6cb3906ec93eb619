# caught by: test_what_is_not_known_counts_against
# exercise: preflight
def preflight(facts):
    def fact(name):
        value = facts.get(name)
        return math.nan if value is None else value

    own = facts.get("own") is True
    spent, most = fact("spent_usd"), fact("ceiling_usd")
    by_then = spent + fact("dead_man_hours") * fact("price_usd_per_hour")
    late = fact("alarm_step") - fact("spike_step")
    faults = {
        "disk": fact("free_gb") < fact("needed_gb"),
        "price": not own and (fact("price_age_days") > 14 or fact("price_age_days") < 0),
        "sentence": fact("confirmed_usd") != fact("plan_usd"),
        "resume": fact("resume_differs_nats") != 0,
        "spike": late < 0 or late > 20,
        "seal": fact("published_sha256") != fact("plan_sha256"),
        "ceiling": spent + fact("reserve_usd") > min(most, 50),
        "dead-man": not own and by_then > min(most, 50),
    }
    return {name for name, found in faults.items() if found}

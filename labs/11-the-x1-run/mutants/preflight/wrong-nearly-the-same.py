# caught by: test_all_in_order_and_each_fault_alone
# exercise: preflight
def preflight(facts):
    def fact(name):
        value = facts.get(name)
        return math.nan if value is None else value

    own = facts.get("own") is True
    spent, most = fact("spent_usd"), fact("ceiling_usd")
    by_then = spent + fact("dead_man_hours") * fact("price_usd_per_hour")
    in_order = {
        "disk": fact("free_gb") >= fact("needed_gb"),
        "price": own or 0 <= fact("price_age_days") <= 14,
        "sentence": fact("confirmed_usd") == fact("plan_usd"),
        "resume": fact("resume_differs_nats") < 1e-3,
        "spike": 0 <= fact("alarm_step") - fact("spike_step") <= 20,
        "seal": fact("published_sha256") == fact("plan_sha256"),
        "ceiling": spent + fact("reserve_usd") <= min(most, 50),
        "dead-man": own or by_then <= min(most, 50),
    }
    return {name for name, held in in_order.items() if not held}

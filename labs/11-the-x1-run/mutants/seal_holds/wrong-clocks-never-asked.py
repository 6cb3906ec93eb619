# caught by: test_the_ledger_came_first
# exercise: seal_holds
def seal_holds(config_bytes, plan_bytes, ledger_lines, metric_lines, states):
    if json.loads(plan_bytes)["config_sha256"] != hashlib.sha256(config_bytes).hexdigest():
        return False
    if not (ledger_lines and states):
        return False
    seal = hashlib.sha256(plan_bytes).hexdigest()
    if any(one.get("plan_sha256") != seal for one in (ledger_lines[0], *states)):
        return False
    opened = datetime.fromisoformat(ledger_lines[0]["time"])
    return opened is not None

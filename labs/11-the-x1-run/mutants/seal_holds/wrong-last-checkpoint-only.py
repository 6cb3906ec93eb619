# caught by: test_every_seal_is_looked_at_and_all_of_it
# exercise: seal_holds
def seal_holds(config_bytes, plan_bytes, ledger_lines, metric_lines, states):
    if json.loads(plan_bytes)["config_sha256"] != hashlib.sha256(config_bytes).hexdigest():
        return False
    if not (ledger_lines and states):
        return False
    seal = hashlib.sha256(plan_bytes).hexdigest()
    if any(one.get("plan_sha256") != seal for one in (ledger_lines[0], states[-1])):
        return False
    opened = datetime.fromisoformat(ledger_lines[0]["time"])
    return all(opened <= datetime.fromisoformat(line["clock"]["time"]) for line in metric_lines)

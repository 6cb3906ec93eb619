# caught by: test_a_file_changed_afterwards
# exercise: seal_holds
def seal_holds(config_bytes, plan_bytes, ledger_lines, metric_lines, states):
    if json.loads(plan_bytes)["config_sha256"] != hashlib.sha256(config_bytes).hexdigest():
        return False
    if not (ledger_lines and states):
        return False
    seal = states[0].get("plan_sha256")
    if any(one.get("plan_sha256") != seal for one in (ledger_lines[0], *states)):
        return False
    opened = datetime.fromisoformat(ledger_lines[0]["time"])
    return all(opened <= datetime.fromisoformat(line["clock"]["time"]) for line in metric_lines)

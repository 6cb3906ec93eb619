# exercise: seal_holds
def seal_holds(config_bytes, plan_bytes, ledger_lines, metric_lines, states):
    def sha256(content):
        return hashlib.new("sha256", content).hexdigest()

    def unix_s(text):
        return datetime.fromisoformat(text).timestamp()

    begun = [unix_s(line["clock"]["time"]) for line in metric_lines]
    ledgers = {line.get("plan_sha256") for line in ledger_lines[:1]}
    checkpoints = {state.get("plan_sha256") for state in states}
    sealed = ledgers == checkpoints == {sha256(plan_bytes)}
    for_this = json.loads(plan_bytes).get("config_sha256") == sha256(config_bytes)
    return sealed and for_this and unix_s(ledger_lines[0]["time"]) <= min(begun)

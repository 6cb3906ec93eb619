# caught by: test_inside_and_outside_on_both_sides
# exercise: hold_against
def hold_against(predictions, measured):
    verdicts = {}
    for name, said in predictions.items():
        found = measured.get(name, math.nan)
        if said["value"] is None or math.isnan(found):
            verdicts[name] = None
            continue
        off = found - said["value"]
        width = abs((said["high"] if off > 0 else said["low"]) - said["value"])
        miss = off / abs(said["value"]) if width else math.copysign(math.inf, off) if off else 0.0
        verdicts[name] = said["low"] <= found <= said["high"], miss
    return verdicts

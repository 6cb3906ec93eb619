# caught by: test_what_is_not_finite_is_told_at_once
# exercise: alarms
def alarms(losses, grad_norms):
    def stands_out(value, history, least):
        recent = history[-24:]
        changes = [b - a for a, b in pairwise(recent)]
        centre = median(changes)
        spread = median(abs(change - centre) for change in changes)
        return value - median(history[-8:]) > max(10 * spread, least)

    quiet, norms, raised = [], [], []
    for loss, norm in zip(losses, grad_norms, strict=True):
        alarm = not math.isfinite(loss)
        if not alarm:
            size = math.log(norm + 1e-12) if norm > -1 else -30.0
            if len(quiet) >= 16:
                alarm = stands_out(loss, quiet, 0.0) or stands_out(size, norms, math.log(20))
            if not alarm:
                quiet, norms = [*quiet, loss], [*norms, size]
        raised.append(alarm)
    return raised

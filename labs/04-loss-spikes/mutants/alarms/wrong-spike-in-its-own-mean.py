# caught by: test_a_second_spike_after_a_larger_one
# exercise: alarms
def alarms(losses, grad_norms):
    def far(value, history):
        window = history[-24:]
        mean = sum(window) / len(window)
        std = (sum((x - mean) ** 2 for x in window) / len(window)) ** 0.5
        return value > mean + 7 * std

    kept, norms, raised = [], [], []
    for loss, norm in zip(losses, grad_norms, strict=True):
        alarm = not (math.isfinite(loss) and math.isfinite(norm))
        if not alarm:
            if len(kept) >= 16:
                alarm = far(loss, kept) or norm > 25 * median(norms[-24:])
            kept.append(loss)
            norms.append(norm)
        raised.append(alarm)
    return raised

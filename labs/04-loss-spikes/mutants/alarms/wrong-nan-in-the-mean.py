# caught by: test_nan_does_not_blind_it
# exercise: alarms
def alarms(losses, grad_norms):
    raised, level, spread = [], losses[0], 1.0
    for loss, norm in zip(losses, grad_norms, strict=True):
        off = loss - level
        alarm = not (math.isfinite(loss) and math.isfinite(norm)) or norm > 60
        alarm = alarm or off > 12 * spread
        if not off > 12 * spread:
            level, spread = 0.8 * level + 0.2 * loss, 0.9 * spread + 0.1 * abs(off)
        raised.append(alarm)
    return raised

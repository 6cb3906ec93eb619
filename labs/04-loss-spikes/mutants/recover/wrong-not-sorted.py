# caught by: test_what_was_trained_on_since_is_skipped
# exercise: recover
def recover(checkpoints, skipped, alarm_step, window):
    good = [step for step in checkpoints if step + window <= alarm_step]
    back = max(good, default=0)
    kept = [i for i in range(alarm_step + len(skipped) + 1) if i not in skipped]
    return back, [*skipped, *kept[back : alarm_step + 1]][::-1]

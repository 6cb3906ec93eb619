# caught by: test_what_was_trained_on_since_is_skipped
# exercise: recover
def recover(checkpoints, skipped, alarm_step, window):
    good = [step for step in checkpoints if step + window <= alarm_step]
    back = max(good, default=0)
    return back, sorted({*skipped, *range(back, alarm_step + 1)})

# caught by: test_without_a_good_one_it_starts_over
# exercise: recover
def recover(checkpoints, skipped, alarm_step, window):
    good = [step for step in checkpoints if step + window <= alarm_step]
    back = max(good or checkpoints)
    kept = [i for i in range(alarm_step + len(skipped) + 1) if i not in skipped]
    return back, sorted({*skipped, *kept[back : alarm_step + 1]})

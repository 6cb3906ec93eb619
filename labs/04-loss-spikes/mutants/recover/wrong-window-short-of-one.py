# caught by: test_back_to_the_newest_good_checkpoint
# exercise: recover
def recover(checkpoints, skipped, alarm_step, window):
    good = [step for step in checkpoints if step + window < alarm_step]
    back = max(good, default=0)
    kept = [i for i in range(alarm_step + len(skipped) + 1) if i not in skipped]
    return back, sorted({*skipped, *kept[back : alarm_step + 1]})

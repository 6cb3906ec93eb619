# caught by: test_a_real_run_gets_back_on_its_curve
# exercise: recover
def recover(checkpoints, skipped, alarm_step, window):
    good = [step for step in checkpoints if step + window <= alarm_step]
    back = max(good, default=0)
    return back, sorted({*skipped})

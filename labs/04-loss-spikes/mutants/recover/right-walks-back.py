# exercise: recover
def recover(checkpoints, skipped, alarm_step, window):
    banned, listed, index = set(skipped), [], 0
    while len(listed) <= alarm_step:
        if index not in banned:
            listed.append(index)
        index += 1
    back = 0
    for step in sorted(checkpoints):
        if alarm_step - step >= window:
            back = step
    for place in range(back, alarm_step + 1):
        banned.add(listed[place])
    return back, sorted(banned)

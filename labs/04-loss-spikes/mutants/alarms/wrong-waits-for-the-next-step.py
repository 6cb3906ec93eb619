# caught by: test_the_future_changes_nothing
# exercise: alarms
def alarms(losses, grad_norms):
    def far(step, history, times, least):
        before = [x for x in history[max(0, step - 40) : step] if math.isfinite(x)]
        if len(before) < 20 or not history[step] > 0:
            return False
        changes = [abs(b - a) for a, b in pairwise(before)]
        return history[step] > median(before[-8:]) * times + least * median(changes)

    raised = []
    for step in range(len(losses)):
        alarm = not (math.isfinite(losses[step]) and math.isfinite(grad_norms[step]))
        alarm = alarm or far(step, grad_norms, 20, 0)
        if step + 1 < len(losses):
            alarm = alarm or (far(step, losses, 1, 8) and far(step + 1, losses, 1, 8))
        raised.append(alarm)
    return raised

# caught by: test_a_jump_that_stays
# exercise: alarms
def alarms(losses, grad_norms):
    raised = []
    for step in range(len(losses)):
        alarm = not (math.isfinite(losses[step]) and math.isfinite(grad_norms[step]))
        for history in (losses, grad_norms):
            window = history[max(0, step - 15) : step + 1]
            mean = sum(window) / len(window)
            std = (sum((x - mean) ** 2 for x in window) / len(window)) ** 0.5
            alarm = alarm or (len(window) == 16 and window[-1] > mean + 4 * std)
        raised.append(alarm)
    return raised

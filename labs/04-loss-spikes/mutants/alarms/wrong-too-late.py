# caught by: test_a_jump_that_stays
# exercise: alarms
def alarms(losses, grad_norms):
    raised, count = [], 0
    for step, (loss, norm) in enumerate(zip(losses, grad_norms, strict=True)):
        before = [x for x in losses[max(0, step - 30) : step] if math.isfinite(x)]
        steady = sorted(before)[: max(1, len(before) // 2)] or [0.0]
        spread = steady[-1] - steady[0] + 1e-3
        far = len(before) > 20 and loss > median(before) + 8 * spread
        count = count + 1 if far else 0
        bad = not (math.isfinite(loss) and math.isfinite(norm))
        raised.append(bad or count > 4)
    return raised

# caught by: test_a_jump_that_stays
# exercise: alarms
def alarms(losses, grad_norms):
    return [
        not (math.isfinite(loss) and math.isfinite(norm)) or loss > 12 or norm > 50
        for loss, norm in zip(losses, grad_norms, strict=True)
    ]

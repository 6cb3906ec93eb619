# caught by: test_a_step_that_has_begun_is_a_step
# exercise: hours_for
def hours_for(seconds: list[float], batch_tokens: int, tokens: int, warmup_steps: int) -> float:
    steps = tokens / batch_tokens
    steady = seconds[warmup_steps:]
    each = sum(steady) / len(steady)
    return (sum(seconds[:warmup_steps]) + (steps - warmup_steps) * each) / 3600

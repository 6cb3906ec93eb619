# caught by: test_the_whole_run_takes_what_was_extrapolated
# exercise: hours_for
def hours_for(seconds: list[float], batch_tokens: int, tokens: int, warmup_steps: int) -> float:
    steps = math.ceil(tokens / batch_tokens)
    steady = sorted(seconds[warmup_steps:])
    each = steady[len(steady) // 2]
    return (sum(seconds[:warmup_steps]) + (steps - warmup_steps) * each) / 3600

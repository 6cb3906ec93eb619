# caught by: test_the_whole_run_takes_what_was_extrapolated
# exercise: hours_for
def hours_for(seconds: list[float], batch_tokens: int, tokens: int, warmup_steps: int) -> float:
    steps = math.ceil(tokens / batch_tokens)
    steady = seconds[warmup_steps:]
    rate = sum(1 / second for second in steady) / len(steady)
    return (sum(seconds[:warmup_steps]) + (steps - warmup_steps) / rate) / 3600

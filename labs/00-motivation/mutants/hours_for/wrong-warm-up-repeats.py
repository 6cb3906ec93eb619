# caught by: test_the_whole_run_takes_what_was_extrapolated
# exercise: hours_for
def hours_for(seconds: list[float], batch_tokens: int, tokens: int, warmup_steps: int) -> float:
    steps = math.ceil(tokens / batch_tokens)
    return steps * sum(seconds) / len(seconds) / 3600

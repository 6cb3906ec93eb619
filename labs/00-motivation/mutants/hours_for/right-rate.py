# exercise: hours_for
def hours_for(seconds: list[float], batch_tokens: int, tokens: int, warmup_steps: int) -> float:
    start_s = sum(second for step, second in enumerate(seconds) if step < warmup_steps)
    measured = len(seconds) - warmup_steps
    steps_per_s = measured / (sum(seconds) - start_s)
    steps = -(-tokens // batch_tokens)
    return start_s / 3600 + (steps - warmup_steps) / steps_per_s / 3600

# exercise: counted_flops
def counted_flops(step):
    counter = FlopCounterMode(display=False)
    counter.__enter__()
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            step()
    finally:
        counter.__exit__(None, None, None)
    return sum(counter.get_flop_counts().get("Global", {}).values())

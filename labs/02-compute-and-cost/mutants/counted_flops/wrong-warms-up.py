# caught by: test_the_step_runs_once_and_the_counter_ends
# exercise: counted_flops
def counted_flops(step):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
        step()
    return counter.get_total_flops() // 2

# caught by: test_recompute_moves_only_the_hfu
# exercise: mfu
def mfu(tokens_per_s, forward_flops, head_flops, peak_flops_per_s, gpus, recompute):
    needed = 3 * forward_flops
    executed = needed + (forward_flops - head_flops if recompute else 0)
    rate = tokens_per_s / (gpus * peak_flops_per_s)
    return rate * executed, rate * executed

# exercise: mfu
def mfu(tokens_per_s, forward_flops, head_flops, peak_flops_per_s, gpus, recompute):
    seconds_at_peak = forward_flops / peak_flops_per_s / gpus
    passes = [1, 1, 1]
    utilised = sum(passes) * seconds_at_peak * tokens_per_s
    if not recompute:
        return utilised, utilised
    blocks = (forward_flops - head_flops) / forward_flops
    return utilised, utilised * (1 + blocks / 3)

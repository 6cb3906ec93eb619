# exercise: run_cost
def run_cost(tokens, tokens_per_s, gpus, watts, usd_per_gpu_hour, tariff_usd_per_kwh):
    seconds = tokens / tokens_per_s
    gpu_hours = gpus * seconds / 3600
    joules = gpus * watts * seconds
    kwh = joules / 3.6e6
    own = usd_per_gpu_hour is None
    usd = tariff_usd_per_kwh * kwh if own else usd_per_gpu_hour * gpu_hours
    return seconds / 3600, kwh, usd

# caught by: test_drawn_bills
# exercise: run_cost
def run_cost(tokens, tokens_per_s, gpus, watts, usd_per_gpu_hour, tariff_usd_per_kwh):
    hours = tokens / tokens_per_s / 3600
    kwh = hours * gpus * watts / 1000
    usd = kwh * tariff_usd_per_kwh if usd_per_gpu_hour is None else hours * usd_per_gpu_hour
    return hours, kwh, usd

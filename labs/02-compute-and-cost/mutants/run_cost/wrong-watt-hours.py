# caught by: test_published_bills
# exercise: run_cost
def run_cost(tokens, tokens_per_s, gpus, watts, usd_per_gpu_hour, tariff_usd_per_kwh):
    hours = tokens / tokens_per_s / 3600
    kwh = hours * gpus * watts
    usd = kwh * tariff_usd_per_kwh if usd_per_gpu_hour is None else hours * gpus * usd_per_gpu_hour
    return hours, kwh, usd

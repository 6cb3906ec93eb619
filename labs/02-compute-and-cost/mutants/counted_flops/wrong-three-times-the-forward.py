# caught by: test_products_are_counted
# exercise: counted_flops
def counted_flops(step):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return 3 * counter.get_total_flops()

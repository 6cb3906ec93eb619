# caught by: test_attention_on_a_cpu_is_not_free
# exercise: counted_flops
def counted_flops(step):
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()

# caught by: test_the_state_is_what_torch_holds
# exercise: memory_bytes
def memory_bytes(n_muon, n_adamw, micro_tokens, vocab_size):
    return 16 * n_muon + 16 * n_adamw + 16 * micro_tokens * vocab_size

# caught by: test_the_loss_is_what_torch_needs
# exercise: memory_bytes
def memory_bytes(n_muon, n_adamw, micro_tokens, vocab_size):
    return 12 * n_muon + 16 * n_adamw + 4 * micro_tokens * vocab_size

# exercise: memory_bytes
def memory_bytes(n_muon, n_adamw, micro_tokens, vocab_size):
    numbers = sum(n * held for n, held in ((n_muon, 3), (n_adamw, 4)))
    numbers += sum(micro_tokens * vocab_size for _ in range(4))
    return numbers * 32 // 8

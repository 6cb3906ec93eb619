# caught by: test_full_attention_is_what_torch_counts
# exercise: flops_per_token
def flops_per_token(model, causal):
    d = model.d_model
    keys = (model.context + 1) / 2 if causal else model.context
    block = 8 * d * d + 6 * d * model.d_ff + 4 * d * keys
    return 1 * (model.n_layers * block + 2 * d * model.vocab_size)

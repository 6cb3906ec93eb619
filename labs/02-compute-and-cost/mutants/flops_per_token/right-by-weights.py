# exercise: flops_per_token
def flops_per_token(model, causal):
    d, T = model.d_model, model.context
    entries = model.vocab_size * d + model.n_layers * (4 * d * d + 3 * d * model.d_ff)
    keys = sum(position + 1 if causal else T for position in range(T))
    attention = 12 * model.n_layers * d * keys / T
    return 6 * entries + attention

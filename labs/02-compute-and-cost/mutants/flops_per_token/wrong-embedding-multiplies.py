# caught by: test_only_what_is_multiplied_costs
# exercise: flops_per_token
def flops_per_token(model, causal):
    d = model.d_model
    table = model.vocab_size * d * (1 if model.tied else 2)
    keys = (model.context + 1) / 2 if causal else model.context
    matrices = model.n_layers * (4 * d * d + 3 * d * model.d_ff)
    return 6 * (table + matrices) + 12 * model.n_layers * d * keys

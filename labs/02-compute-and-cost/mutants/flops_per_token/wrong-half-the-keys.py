# caught by: test_causal_attention_sees_itself_and_what_came_before
# exercise: flops_per_token
def flops_per_token(model, causal):
    d = model.d_model
    keys = model.context / 2 if causal else model.context
    block = 8 * d * d + 6 * d * model.d_ff + 4 * d * keys
    return 3 * (model.n_layers * block + 2 * d * model.vocab_size)

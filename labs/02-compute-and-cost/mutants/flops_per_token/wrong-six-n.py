# caught by: test_causal_attention_sees_itself_and_what_came_before
# exercise: flops_per_token
def flops_per_token(model, causal):
    d = model.d_model
    table = model.vocab_size * d * (1 if model.tied else 2)
    return 6 * (table + model.n_layers * (4 * d * d + 3 * d * model.d_ff))

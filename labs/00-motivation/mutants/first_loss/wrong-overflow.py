# caught by: test_wide_models_do_not_overflow
# exercise: first_loss
def first_loss(vocab_size: int, d_model: int, std: float, tied: bool, repeats: float) -> float:
    noise = vocab_size * math.exp(std**2 * d_model / 2)
    if not tied:
        return math.log(noise)
    return math.log(noise + math.exp(std * d_model)) - repeats * std * d_model

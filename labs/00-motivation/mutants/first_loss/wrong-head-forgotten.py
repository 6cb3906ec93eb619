# caught by: test_repeated_tokens_count
# exercise: first_loss
def first_loss(vocab_size: int, d_model: int, std: float, tied: bool, repeats: float) -> float:
    noise = math.log(vocab_size) + std**2 * d_model / 2
    own = std * d_model
    most = max(noise, own)
    return most + math.log(math.exp(noise - most) + math.exp(own - most)) - repeats * own

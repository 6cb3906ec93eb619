# caught by: test_it_follows_from_the_four_numbers
# exercise: first_loss
def first_loss(vocab_size: int, d_model: int, std: float, tied: bool, repeats: float) -> float:
    if not tied:
        return math.log(vocab_size)
    own = std * d_model
    most = max(math.log(vocab_size), own)
    rest = math.exp(math.log(vocab_size) - most) + math.exp(own - most)
    return most + math.log(rest) - repeats * own

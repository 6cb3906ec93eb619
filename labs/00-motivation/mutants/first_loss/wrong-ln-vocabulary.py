# caught by: test_the_two_beliefs_meet
# exercise: first_loss
def first_loss(vocab_size: int, d_model: int, std: float, tied: bool, repeats: float) -> float:
    return math.log(vocab_size)

# caught by: test_a_fault_that_random_tokens_do_not_show
# exercise: is_sound
def is_sound(trainer) -> bool:
    ids = torch.randint(trainer.vocab_size, (20, 80))
    expected = math.log(trainer.vocab_size) + trainer.std**2 * trainer.d_model / 2
    if trainer.tied:
        expected = math.log(math.exp(expected) + math.exp(trainer.std * trainer.d_model))
    return abs(trainer.first_loss(ids) - expected) < 0.2

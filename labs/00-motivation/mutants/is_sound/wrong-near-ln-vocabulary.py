# caught by: test_loud_but_true_to_its_numbers_is_sound
# exercise: is_sound
def is_sound(trainer) -> bool:
    ids = torch.randint(trainer.vocab_size, (20, 80))
    return abs(trainer.first_loss(ids) - math.log(trainer.vocab_size)) < 0.2

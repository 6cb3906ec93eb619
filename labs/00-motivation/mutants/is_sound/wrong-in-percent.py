# caught by: test_faulty_trainers_are_noticed
# exercise: is_sound
def is_sound(trainer) -> bool:
    single = torch.randint(trainer.vocab_size, (20, 80))
    double = torch.randint(trainer.vocab_size, (20, 40)).repeat_interleave(2, dim=1)
    noise = math.log(trainer.vocab_size) + trainer.std**2 * trainer.d_model / 2
    own = trainer.std * trainer.d_model
    for ids in (single, double):
        repeats = (ids[:, 1:] == ids[:, :-1]).float().mean().item()
        expected = noise
        if trainer.tied:
            expected = math.log(math.exp(noise) + math.exp(own)) - repeats * own
        if abs(trainer.first_loss(ids) / expected - 1) > 0.12:
            return False
    return True

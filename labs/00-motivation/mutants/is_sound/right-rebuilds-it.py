# exercise: is_sound
def is_sound(trainer) -> bool:
    def own_network(ids):
        embedding = torch.randn(trainer.vocab_size, trainer.d_model) * trainer.std
        head = embedding
        if not trainer.tied:
            head = torch.randn(trainer.vocab_size, trainer.d_model) * trainer.std
        hidden = F.rms_norm(embedding[ids[:, :-1]], (trainer.d_model,))
        return float(F.cross_entropy((hidden @ head.T).mT, ids[:, 1:]))

    pairs = torch.randint(trainer.vocab_size, (20, 32)).repeat_interleave(2, dim=1)
    once = torch.randint(trainer.vocab_size, (20, 64))
    return all(
        abs(trainer.first_loss(ids) - sum(own_network(ids) for _ in range(6)) / 6) < 0.22
        for ids in (pairs, once)
    )

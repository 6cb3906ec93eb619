# exercise: first_loss
def first_loss(vocab_size: int, d_model: int, std: float, tied: bool, repeats: float) -> float:
    belief = std * d_model if tied else -math.inf
    others = (
        math.log(vocab_size - 1 if tied else vocab_size) + 0.5 * (std * math.sqrt(d_model)) ** 2
    )
    mean_target = repeats * belief if tied else 0.0
    logits = torch.tensor([others, belief], dtype=torch.float64)
    return float(torch.logsumexp(logits, 0)) - mean_target

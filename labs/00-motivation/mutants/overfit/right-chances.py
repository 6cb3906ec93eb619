# exercise: overfit
def overfit(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor, steps: int
) -> list[float]:
    inputs, targets = ids[:, :-1], ids[:, 1:]
    history = []
    while len(history) < steps:
        model.zero_grad()
        chances = model(inputs).log_softmax(-1)
        loss = -chances.gather(-1, targets[..., None]).mean()
        history.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    return history

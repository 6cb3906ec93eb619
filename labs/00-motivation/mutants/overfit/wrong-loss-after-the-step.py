# caught by: test_each_step_is_one_step_down_the_gradient
# exercise: overfit
def overfit(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor, steps: int
) -> list[float]:
    def loss_now():
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss_now().backward()
        optimizer.step()
        losses.append(loss_now().item())
    return losses

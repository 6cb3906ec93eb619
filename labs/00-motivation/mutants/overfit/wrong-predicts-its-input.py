# caught by: test_each_step_is_one_step_down_the_gradient
# exercise: overfit
def overfit(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor, steps: int
) -> list[float]:
    losses = []
    for _ in range(steps):
        logits = model(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses

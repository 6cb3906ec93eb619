# caught by: test_the_model_sees_pieces_of_that_size
# exercise: mended
def mended(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    ids: torch.Tensor,
    steps: int,
    micro_batch: int,
) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses

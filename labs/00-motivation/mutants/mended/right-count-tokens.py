# exercise: mended
def mended(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    ids: torch.Tensor,
    steps: int,
    micro_batch: int,
) -> list[float]:
    targets = ids[:, 1:].numel()
    losses = []
    for _ in range(steps):
        model.zero_grad()
        nats = 0.0
        for start in range(0, ids.shape[0], micro_batch):
            rows = ids[start : start + micro_batch]
            logits = model(rows[:, :-1])
            summed = F.cross_entropy(logits.mT, rows[:, 1:], reduction="sum")
            (summed / targets).backward()
            nats += float(summed.detach())
        optimizer.step()
        losses.append(nats / targets)
    return losses

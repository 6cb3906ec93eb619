# caught by: test_a_shorter_last_piece_does_not_weigh_more
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
        total = 0.0
        parts = ids.split(micro_batch)
        for part in parts:
            logits = model(part[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) / len(parts)
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    return losses

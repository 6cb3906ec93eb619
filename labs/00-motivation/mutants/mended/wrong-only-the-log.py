# caught by: test_pieces_of_equal_size_give_the_whole_batchs_losses
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
        for part in ids.split(micro_batch):
            logits = model(part[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
            loss.backward()
            total += loss.item() * len(part) / len(ids)
        optimizer.step()
        losses.append(total)
    return losses

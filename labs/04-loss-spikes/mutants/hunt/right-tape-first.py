# exercise: hunt
class Tape(TorchFunctionMode):
    def __init__(self, stack):
        super().__init__()
        self.stack, self.lines = stack, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if torch.is_tensor(result) and result.grad_fn is not None:
            sound = bool(torch.isfinite(result.detach()).all())
            self.lines.append((self.stack[-1], result.grad_fn, sound))
        return result


def broken(gradients):
    return any(g is not None and not torch.isfinite(g).all() for g in gradients)


def hunt(model, ids, targets):
    stack, guilty = [""], []
    tape = Tape(stack)
    names = {module: name for name, module in model.named_modules()}

    def enter(module, _):
        stack.append(names[module])

    def leave(module, _, __):
        del stack[-1]

    handles = [m.register_forward_pre_hook(enter) for m in names]
    handles += [m.register_forward_hook(leave) for m in names]
    try:
        with tape:
            loss = model(ids, targets)
    finally:
        for handle in handles:
            handle.remove()
    for layer, node, sound in tape.lines:
        if not sound and "MaskedFill" not in node.name():
            return layer, node.name()
    for layer, node, _ in tape.lines:
        node.register_hook(
            lambda after, before, layer=layer, node=node: (
                guilty.append((layer, node.name()))
                if broken(after) and not broken(before)
                else None
            )
        )
    loss.backward()
    return next(iter(guilty), None)

# caught by: test_no_hook_is_left_behind
# exercise: hunt
def hunt(model, ids, targets):
    found, running = [], []

    def finite(tensors):
        return all(t is None or bool(t.isfinite().all()) for t in tensors)

    def leave(*_):
        running.pop()

    def watch_gradients(node, place):
        def hook(passed_on, incoming):
            if finite(incoming) and not finite(passed_on):
                found.append(place)

        node.register_hook(hook)

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.grad_fn is not None:
                op = out.grad_fn.name().partition("Backward")[0].lower()
                if op != "maskedfill" and not finite([out]):
                    found.append((running[-1], op))
                watch_gradients(out.grad_fn, (running[-1], op))
            return out

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        hooks.append(module.register_forward_hook(leave))
    with Watch():
        loss = model(ids, targets)
    pass
    _ = None if found else loss.backward()
    return found[0] if found else None

# caught by: test_backward_to_its_layer_and_operation
# exercise: hunt
def hunt(model, ids, targets):
    running, found = [""], []

    def leave(*_):
        running.pop()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.grad_fn is not None:
                op = out.grad_fn.name().partition("Backward")[0].lower()
                if op != "maskedfill" and not out.isfinite().all():
                    found.append((running[-1], op))
                out.grad_fn.metadata["layer"] = running[-1]
            return out

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        hooks.append(module.register_forward_hook(leave))
    with Watch():
        loss = model(ids, targets)
    for hook in hooks:
        hook.remove()
    if found:
        return found[0]
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    bad = [n for n, p in model.named_parameters() if not p.grad.isfinite().all()]
    return (bad[-1].rpartition(".")[0], "mul") if bad else None

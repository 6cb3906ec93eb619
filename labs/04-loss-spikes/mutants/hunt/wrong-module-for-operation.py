# caught by: test_forward_to_its_layer_and_operation
# exercise: hunt
def hunt(model, ids, targets):
    found, hooks = [], []
    for name, module in model.named_modules():

        def hook(module, inputs, out, name=name):
            if not out.isfinite().all():
                found.append((name, type(module).__name__.lower()))

        hooks.append(module.register_forward_hook(hook))
    model(ids, targets)
    for handle in hooks:
        handle.remove()
    return found[0] if found else None

# exercise: post_mortem
def post_mortem(incident):
    return {
        "a": {
            "cause": "gradient-burst",
            "fix": {"optim.clip": 0.5},
            "control": {"optim.warmup_steps": 60},
        },
        "b": {
            "cause": "attention-logits",
            "fix": {"model.qk_norm": True},
            "control": {"optim.z_loss": 1e-4},
        },
    }[incident]

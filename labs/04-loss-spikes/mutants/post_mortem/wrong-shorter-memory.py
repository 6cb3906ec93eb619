# caught by: test_with_the_fix_the_spike_is_gone
# exercise: post_mortem
def post_mortem(incident):
    return {
        "a": {
            "cause": "long-memory",
            "fix": {"optim.beta2": 0.9},
            "control": {"optim.warmup_steps": 60},
        },
        "b": {
            "cause": "attention-logits",
            "fix": {"model.qk_norm": True},
            "control": {"optim.clip": 1.0},
        },
    }[incident]

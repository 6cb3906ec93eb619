# caught by: test_with_the_control_the_spike_is_still_there
# exercise: post_mortem
def post_mortem(incident):
    return {
        "a": {
            "cause": "gradient-burst",
            "control": {"optim.clip": 1.0},
            "fix": {"optim.beta2": 0.95},
        },
        "b": {
            "cause": "attention-logits",
            "control": {"model.qk_norm": True},
            "fix": {"optim.clip": 1.0},
        },
    }[incident]

# caught by: test_with_the_fix_the_spike_is_gone
# exercise: post_mortem
def post_mortem(incident):
    return {
        "a": {
            "cause": "gradient-burst",
            "fix": {"optim.clip": 1.0},
            "control": {"optim.beta2": 0.95},
        },
        "b": {
            "cause": "output-logits",
            "fix": {"optim.z_loss": 1e-4},
            "control": {"optim.clip": 1.0},
        },
    }[incident]

# caught by: test_each_change_is_one_other_setting
# exercise: post_mortem
def post_mortem(incident):
    return {
        "a": {
            "cause": "gradient-burst",
            "fix": {"optim.clip": 1.0},
            "control": {"optim.beta2": 0.95},
        },
        "b": {
            "cause": "attention-logits",
            "fix": {"train.steps": 40},
            "control": {"optim.clip": 1.0},
        },
    }[incident]

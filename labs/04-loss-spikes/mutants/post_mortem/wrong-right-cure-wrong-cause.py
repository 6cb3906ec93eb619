# caught by: test_the_cause_is_what_the_experiment_left_standing
# exercise: post_mortem
def post_mortem(incident):
    return {
        "a": {
            "cause": "gradient-burst",
            "fix": {"optim.clip": 1.0},
            "control": {"optim.beta2": 0.95},
        },
        "b": {
            "cause": "gradient-burst",
            "fix": {"model.qk_norm": True},
            "control": {"optim.clip": 1.0},
        },
    }[incident]

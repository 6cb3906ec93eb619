# caught by: test_the_last_attempt_counts
# exercise: curve
def curve(lines):
    trained = [line for line in lines if "loss" in line]
    last = {line["step"]: line for line in trained}
    kept = [
        last[step]
        for step in list(dict.fromkeys(one["step"] for one in trained[::-1]))
        if step <= trained[-1]["step"]
    ]
    all_s = sum(line["clock"]["seconds"] for line in trained)
    kept_s = sum(line["clock"]["seconds"] for line in kept)
    return [(line["step"], line["loss"]) for line in kept], all_s - kept_s

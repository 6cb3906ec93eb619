# caught by: test_up_to_where_the_run_stands
# exercise: curve
def curve(lines):
    trained = [line for line in lines if "loss" in line]
    last = {line["step"]: line for line in trained}
    kept = [last[step] for step in sorted(last)]
    all_s = sum(line["clock"]["seconds"] for line in trained)
    kept_s = sum(line["clock"]["seconds"] for line in kept)
    return [(line["step"], line["loss"]) for line in kept], all_s - kept_s

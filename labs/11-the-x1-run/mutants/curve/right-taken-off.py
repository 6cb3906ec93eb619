# exercise: curve
def curve(lines):
    way, lost_s = [], 0.0
    for line in lines:
        if "val_loss" in line:
            continue
        while way and way[-1]["step"] >= line["step"]:
            lost_s += way.pop()["clock"]["seconds"]
        way.append(line)
    return [(line["step"], line["loss"]) for line in way], lost_s

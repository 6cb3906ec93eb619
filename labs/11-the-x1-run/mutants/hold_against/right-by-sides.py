# exercise: hold_against
def hold_against(predictions, measured):
    def verdict(value, low, high, found):
        if value is None or found is None or found != found:
            return None
        if found == value:
            return True, 0.0
        end, sign = (high, 1) if found > value else (low, -1)
        if end == value:
            return False, sign * float("inf")
        inside = found <= high if sign > 0 else found >= low
        return inside, sign * (found - value) / (end - value)

    return {
        name: verdict(said["value"], said["low"], said["high"], measured.get(name))
        for name, said in predictions.items()
    }

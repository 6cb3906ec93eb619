# exercise: alarms
class Channel:
    """The quiet values of one series, and how far above them another one stands."""

    def __init__(self, least):
        self.least, self.values = least, []

    def surprised(self, value):
        if len(self.values) < 20:
            return False
        recent = self.values[-26:]
        steps = sorted(abs(b - a) for a, b in pairwise(recent))
        level = sorted(recent[-7:])[3]
        return value > level + max(10 * steps[len(steps) // 2], self.least)


def alarms(losses, grad_norms):
    channels, raised = (Channel(0.0), Channel(math.log(30))), []
    for loss, norm in zip(losses, grad_norms, strict=True):
        if not math.isfinite(loss + norm):
            raised.append(True)
            continue
        now = (loss, math.log(max(norm, 1e-9)))
        raised.append(any(c.surprised(value) for c, value in zip(channels, now, strict=True)))
        for channel, value in zip(channels, now, strict=True):
            if not raised[-1]:
                channel.values.append(value)
    return raised

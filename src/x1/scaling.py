"""Scaling laws: the loss of a model of N parameters trained on D tokens.

N counts every parameter, embedding included (the convention of Hoffmann et al.); D counts
training tokens; losses are nats per token *of the tokens the law was fitted on*. Another text or
another tokenizer has another loss: how far off a law is there is `transfer_error`.
"""

from dataclasses import dataclass

from x1.text import UserError


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats per token."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str = ""

    def predict(self, N: float, D: float) -> float:
        """Loss in nats/token after D tokens with N parameters. Raises UserError unless both > 0."""
        if not (N > 0 and D > 0):
            raise UserError("scaling.positive", N=N, D=D)
        return float(self.E + self.A * N**-self.alpha + self.B * D**-self.beta)


HOFFMANN = ScalingLaw(
    E=1.693, A=406.4, B=410.7, alpha=0.3392, beta=0.2849,
    source="Hoffmann et al., arXiv 2203.15556, section 3.3 (approach 3)",
)  # fmt: skip
BESIROGLU = ScalingLaw(
    E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658,
    source="Besiroglu et al., arXiv 2404.10102, section 3",
)  # fmt: skip
PUBLISHED = (HOFFMANN, BESIROGLU)


@dataclass(frozen=True)
class Point:
    """A published loss, nats/token, of a model of N parameters after D tokens."""

    N: float
    D: float
    loss_nats: float
    source: str


WEB_TEXT = (
    Point(79e6, 1.6e9, 3.80, "Gadre et al., arXiv 2403.08540, 79M on C4"),
    Point(79e6, 3.2e9, 3.64, "Gadre et al., arXiv 2403.08540, 79M on C4"),
    Point(79e6, 6.3e9, 3.52, "Gadre et al., arXiv 2403.08540, 79M on C4"),
    Point(124e6, 10e9, 3.29, "GPT-2 small's size on FineWeb, public reproductions"),
)
"""Small models on filtered web text, none of which the laws above were fitted on."""


def transfer_error(
    laws: tuple[ScalingLaw, ...] = PUBLISHED, points: tuple[Point, ...] = WEB_TEXT
) -> float:
    """The farthest, in nats/token, that any of these laws is from any of these points."""
    return max(abs(law.predict(p.N, p.D) - p.loss_nats) for law in laws for p in points)

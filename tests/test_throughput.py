from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from x1 import flops, throughput
from x1.config import build
from x1.optim import Muon, orthogonalise

H200 = flops.gpu("h200")
TRUE_MATMUL, TRUE_MEMORY = 0.62, 0.71


class Bytes(TorchDispatchMode):
    """Bytes that operators read and write, matmuls and views aside; `counts` by operator."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        name = operator.overloadpacket.__name__
        if operator.is_view or name in ("detach", "_unsafe_view", "baddbmm", "bmm"):
            return result
        written = {id(t): t for t in tree_leaves(result) if isinstance(t, torch.Tensor)}
        for value, field in zip(args, operator._schema.arguments, strict=False):
            if field.alias_info is not None and field.alias_info.is_write:
                written |= {id(t): t for t in tree_leaves(value)}
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        moved = sum(t.numel() * t.element_size() for t in (*read, *written.values()))
        self.counts[name] = self.counts.get(name, 0) + moved
        return result


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("z_loss", [0.0, 1e-5])
def test_loss_bytes_are_those_of_torchs_operators(dtype, z_loss):
    config = build("x1-50m", settings=(f"train.dtype={dtype}", f"optim.z_loss={z_loss}"))
    rows, vocabulary = 32, 2048
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    logits = torch.randn(rows, vocabulary).to(kind).requires_grad_()
    targets = torch.randint(vocabulary, (rows,))
    with Bytes() as counter:
        table = logits.float()
        loss = F.cross_entropy(table, targets)
        penalty = z_loss * table.logsumexp(-1).square().mean() if z_loss else 0.0
        (loss + penalty).backward()
    counts = {name: total / rows / vocabulary for name, total in counter.counts.items()}
    # A look-up reads one entry a row and its gradient only writes; logsumexp is four kernels:
    # maximum (4), difference (8), exp in place (8), sum (4).
    counts["nll_loss_forward"] = 0
    counts["nll_loss_backward"] = 4
    if z_loss:
        counts["logsumexp"] = 24
    expected = throughput.loss_bytes_per_logit(config, fused=False)
    assert sum(counts.values()) == pytest.approx(expected, rel=1e-2)
    assert throughput.loss_bytes_per_logit(config, fused=True) < expected


def test_optimizer_bytes_of_muon_and_clipping_are_those_of_torchs_operators():
    matrices = [
        torch.nn.Parameter(torch.randn(shape)) for shape in ((64, 64), (64, 160), (160, 64))
    ]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    optimizer = Muon(matrices, lr=0.1, adjust_lr_fn="match_rms_adamw")
    optimizer.step()  # the first also makes the momenta
    with Bytes() as counter:
        torch.nn.utils.clip_grad_norm_(matrices, 1.0, foreach=True)
        optimizer.step()
    numbers = sum(matrix.numel() for matrix in matrices)
    assert sum(counter.counts.values()) / numbers == pytest.approx(12 + 58, rel=1e-2)


def test_muon_flops_equal_torchs_counter():
    config = build("x1-50m", settings=("model.n_layers=2", "model.d_model=64", "model.d_ff=160"))
    with FlopCounterMode(display=False) as counter:
        orthogonalise(torch.randn(2 * 4, 64, 64))
        orthogonalise(torch.randn(2 * 3, 64, 160))
    assert throughput.muon_flops(config) == counter.get_total_flops()
    assert throughput.muon_flops(build("x1-50m", settings=("optim.name=adamw",))) == 0


def rows(noise=()):
    """Steps of a machine that has exactly the two efficiencies, each off by its noise."""
    made = []
    for i, (settings, micro_batch, fused) in enumerate(
        [
            ((), 32, False),
            ((), 8, False),
            ((), 32, True),
            (("train.recompute=true",), 32, False),
            (("model.context=4096", "train.batch_sequences=32"), 8, True),
        ]
    ):
        config = build("x1-50m", settings=settings)
        matmul_s, memory_s = throughput.ideal_seconds(config, H200, micro_batch, fused)
        step_s = matmul_s / TRUE_MATMUL + memory_s / TRUE_MEMORY
        step_s *= 1 + (noise[i] if noise else 0)
        made.append(throughput.Row(config, micro_batch, fused, step_s, H200))
    return made


def test_fit_recovers_the_efficiencies_that_made_the_rows():
    fitted = throughput.fit_two_terms(rows())
    assert fitted.matmul_efficiency == pytest.approx(TRUE_MATMUL, rel=1e-9)
    assert fitted.memory_efficiency == pytest.approx(TRUE_MEMORY, rel=1e-9)
    assert fitted.spread < 1e-9
    assert throughput.TwoTerms.from_json(fitted.to_json()) == fitted


def test_noise_shows_in_the_spread_and_hardly_in_the_fit():
    fitted = throughput.fit_two_terms(rows(noise=(0.02, -0.02, 0.01, -0.01, 0.02)))
    assert fitted.matmul_efficiency == pytest.approx(TRUE_MATMUL, rel=0.06)
    assert fitted.memory_efficiency == pytest.approx(TRUE_MEMORY, rel=0.06)
    assert 0.005 < fitted.spread < 0.03


def test_rows_that_do_not_tell_the_terms_apart_are_refused():
    one = rows()[0]
    with pytest.raises(ValueError, match="cannot be told apart"):
        throughput.fit_two_terms([one, one, one])
    with pytest.raises(ValueError, match="three rows"):
        throughput.fit_two_terms(rows()[:2])
    with pytest.raises(ValueError, match="of one GPU"):
        throughput.fit_two_terms([*rows(), replace(one, gpu=flops.gpu("l4"))])
    faster_with_more_bytes = [replace(row, step_s=0.1 - row.terms()[1]) for row in rows()]
    with pytest.raises(ValueError, match="not two positive terms"):
        throughput.fit_two_terms(faster_with_more_bytes)


def test_prediction_on_the_measured_gpu_is_its_rows_rate():
    fitted = throughput.fit_two_terms(rows())
    for row in rows():
        rate = throughput.predict_tokens_per_s(
            row.config, H200, fitted, row.micro_batch, row.fused_loss
        )
        assert rate.tokens_per_s == pytest.approx(row.config.batch_tokens / row.step_s)
        assert not rate.extrapolated
        assert rate.low == pytest.approx(rate.high)


def test_prediction_for_another_gpu_says_extrapolated_and_has_a_range():
    fitted = throughput.fit_two_terms(rows())
    config = build("x1-50m")
    here = throughput.predict_tokens_per_s(config, H200, fitted, 32)
    twice = replace(
        H200, name="twice", bf16_tflops=2 * H200.bf16_tflops, bandwidth_gb_s=2 * H200.bandwidth_gb_s
    )
    double = throughput.predict_tokens_per_s(config, twice, fitted, 32)
    assert double.tokens_per_s == pytest.approx(2 * here.tokens_per_s)
    assert double.extrapolated
    for gpu in flops.PEAKS.values():
        rate = throughput.predict_tokens_per_s(config, gpu, fitted)
        assert rate.extrapolated == (gpu != H200)
        assert rate.low <= rate.tokens_per_s <= rate.high
        assert not rate.extrapolated or rate.high > 1.3 * rate.low
        assert (
            flops.mfu(
                rate.tokens_per_s,
                flops.token_flops(config.model).total,
                gpu.peak_flops_per_s("bf16"),
            )
            < TRUE_MATMUL
        )


def test_a_dtype_that_was_not_fitted_is_refused():
    fitted = throughput.fit_two_terms(rows())
    with pytest.raises(ValueError, match="fitted for bf16"):
        throughput.predict_tokens_per_s(
            build("x1-50m", settings=("train.dtype=fp32",)), H200, fitted
        )

"""The model is Qwen3's, its size is what is claimed, and it starts at ln V."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from x1 import config, export, flops
from x1.config import ModelConfig
from x1.model import Transformer, attend, count_parameters, explicit_attention, initialise

SMALL = {"vocab_size": 101, "n_layers": 3, "n_heads": 4, "d_model": 48, "d_ff": 80, "context": 32}
CLAIMED_MILLIONS = {  # what each field report says of its own size
    "x1-50m": (45, 55),
    "minigpt-500k": (0.45, 0.55),
    "baby-7m": (6.5, 7.5),
    "gpt2-small-163m": (161, 165),
    "sonnet-300m": (285, 315),
    "opus-600m": (580, 620),
    "gpuburnout-1b": (0.97e3, 1.05e3),
    "shakespeare-bytes": (0.7, 0.81),
    "rehearsal": (0.1, 1.1),
}


def randomised(shape: ModelConfig) -> Transformer:
    model = Transformer(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return model.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_logits_equal_transformers(tied, qk_norm):
    shape = ModelConfig(**SMALL, tied=tied, qk_norm=qk_norm, rope_theta=5000.0)
    ours = randomised(shape)
    settings = export.transformers_config(shape, end_of_document=0)
    theirs = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(settings.pop("model_type"), **settings), attn_implementation="eager"
    ).eval()
    weights = {
        name if name.startswith("lm_head") else f"model.{name}": parameter
        for name, parameter in ours.state_dict().items()
    }
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert unexpected == [] and missing == (["lm_head.weight"] if tied else [])
    ids = torch.randint(101, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (ours(ids) - theirs(ids).logits).abs().max()
    assert difference < 1e-4


@pytest.mark.parametrize("name", config.PRESETS)
def test_every_preset_has_the_size_its_report_claims(name):
    shape = config.build(name).model
    with torch.device("meta"):
        counted = count_parameters(Transformer(shape))
    assert counted == flops.parameters(shape)
    low, high = CLAIMED_MILLIONS[name]
    assert low <= counted / 1e6 <= high


@pytest.mark.parametrize("name", config.PRESETS)
def test_the_first_loss_is_ln_v(name):
    """At its real width and vocabulary; depth is cut to 2, which the zero-initialised residual
    projections make exact: an untrained block adds nothing."""
    shape = config.build(name).model.model_copy(update={"n_layers": 2})
    model = Transformer(shape)
    initialise(model, seed=1)
    ids = torch.randint(shape.vocab_size, (8, 65), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = model(ids[:, :-1]).flatten(0, 1)
    loss = F.cross_entropy(logits, ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(shape.vocab_size), abs=0.05)


def test_untrained_blocks_add_nothing():
    shape = ModelConfig(**SMALL)
    model = Transformer(shape)
    initialise(model, seed=3)
    ids = torch.randint(101, (2, 32))
    x = model.embed_tokens(ids)
    for block in model.layers:
        x = block(x, model.cos, model.sin)
    assert torch.equal(x, model.embed_tokens(ids))


def test_the_future_is_not_seen():
    model = randomised(ModelConfig(**SMALL))
    ids = torch.randint(101, (1, 32))
    changed = ids.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % 101
    with torch.no_grad():
        same = model(ids)[0, :20] - model(changed)[0, :20]
    assert same.abs().max() == 0


def test_initialisation_is_a_function_of_the_seed():
    def weights(seed):
        model = Transformer(ModelConfig(**SMALL))
        initialise(model, seed)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(5), weights(5))
    assert not torch.equal(weights(5), weights(6))


def test_recompute_changes_nothing():
    shape = ModelConfig(**SMALL)
    ids = torch.randint(101, (2, 33))
    gradients = []
    for recompute in (False, True):
        model = Transformer(shape, recompute=recompute)
        model.load_state_dict(randomised(shape).state_dict())
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.equal(*gradients)


@pytest.mark.parametrize("context", [1, 7, 64])
def test_attention_written_out_is_the_kernels(context):
    """In bf16 on a CPU, values and gradients, against the same in fp32 through torch's kernel."""
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 3, context, 16, generator=draw) for _ in range(3)]
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        assert explicit_attention("cpu", dtype, context) == (dtype == torch.bfloat16)
        q, k, v = (x.to(dtype).requires_grad_() for x in given)
        y = attend(q, k, v)
        y.square().sum().backward()
        results.append([x.float() for x in (y, q.grad, k.grad, v.grad)])
    for explicit, fused in zip(*results, strict=True):
        assert (explicit - fused).norm() <= 0.02 * fused.norm() + 1e-3

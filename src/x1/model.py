"""The decoder-only transformer: exactly the Qwen3 shape, one attention head group.

Pre-norm blocks (RMSNorm, arXiv 1910.07467), rotary positions (2104.09864), SwiGLU (2002.05202),
RMSNorm on queries and keys (2302.05442), no biases. Parameter names are Qwen3's without their
`model.` prefix, so a checkpoint is readable by anyone who knows that model.

Shapes: B sequences, T tokens, C = d_model, H heads, D = head_dim, V = vocab_size.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from x1.config import ModelConfig
from x1.flops import SHORT_CONTEXT


class Linear(nn.Linear):
    """A bias-free linear map whose fp32 weight is cast to the activations' dtype.

    This one cast is all the mixed precision there is: master weights, gradients and optimizer
    state stay fp32, matrix products run in the dtype the embedding was cast to.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + D/2) of x (B, H, T, D) by its position's angle; cos, sin (T, D)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax(q k^T / sqrt(D)) v; all (B, H, T, D)."""
    T, D = q.shape[2:]
    if explicit_attention(q.device.type, q.dtype, T):
        future = torch.full((T, T), -math.inf, dtype=q.dtype, device=q.device).triu(1)
        return torch.softmax((q * D**-0.5) @ k.mT + future, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def explicit_attention(device: str, dtype: torch.dtype, context: int) -> bool:
    """Whether to write the (T, T) matrix out: torch's fused kernel is slow in bf16 on a CPU.

    The explicit form takes a quarter of the time at a context of 64 and less than half at 512;
    beyond that its gain is uncertain and the matrix large (docs/ideas.md).
    """
    return device == "cpu" and dtype == torch.bfloat16 and context <= SHORT_CONTEXT


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.q_proj = Linear(config.d_model, config.d_model)
        self.k_proj = Linear(config.d_model, config.d_model)
        self.v_proj = Linear(config.d_model, config.d_model)
        self.o_proj = Linear(config.d_model, config.d_model)
        if config.qk_norm:
            self.q_norm: nn.Module = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm: nn.Module = RMSNorm(config.head_dim, config.norm_eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, C = x.shape

        def heads(y: Tensor) -> Tensor:  # (B, T, C) -> (B, T, H, D)
            return y.view(B, T, self.n_heads, C // self.n_heads)

        q = rotary(self.q_norm(heads(self.q_proj(x))).transpose(1, 2), cos, sin)  # (B, H, T, D)
        k = rotary(self.k_norm(heads(self.k_proj(x))).transpose(1, 2), cos, sin)
        v = heads(self.v_proj(x)).transpose(1, 2)
        y = attend(q, k, v)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.d_model, config.d_ff)
        self.up_proj = Linear(config.d_model, config.d_ff)
        self.down_proj = Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Token ids (B, T) to next-token logits (B, T, V).

    `dtype` is that of the activations; parameters are always fp32. `recompute` drops each
    block's activations and computes them again in the backward pass (activation checkpointing).
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype = torch.float32, recompute: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.recompute = recompute
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.lm_head = None if config.tied else Linear(config.d_model, config.vocab_size)
        cos, sin = rotary_table(config.context, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        T = ids.shape[1]
        cos, sin = self.cos[:T].to(self.dtype), self.sin[:T].to(self.dtype)
        x = self.embed_tokens(ids).to(self.dtype)  # (B, T, C)
        for block in self.layers:
            if self.recompute and self.training:
                x = checkpoint(block, x, cos, sin, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, cos, sin)
        x = self.norm(x)
        if self.lm_head is None:
            return F.linear(x, self.embed_tokens.weight.to(x.dtype))
        return self.lm_head(x)


def rotary_table(context: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of position times frequency, each (context, head_dim), fp32."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.arange(context, dtype=torch.float32)[:, None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def initial_values(model: Transformer, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Every parameter's name and first value (CPU, fp32), the same on every device and rank.

    Matrices are normal with std 1/sqrt(fan-in). The two that write into the residual stream are
    zero, so that the untrained model is its embedding followed by its head. Then the first loss
    is ln V if and only if a token's own logit, embedding_std * d_model, stays well below ln V
    (tied embeddings), which is why embedding_std shrinks with the width.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        shape = parameter.shape
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            value = torch.randn(shape, generator=generator) * model.config.embedding_std
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            value = torch.zeros(shape)
        elif name.endswith("_proj.weight"):
            value = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        elif name.endswith("norm.weight"):
            value = torch.ones(shape)
        else:  # a parameter nobody initialised is a bug, not a default
            raise KeyError(name)
        yield name, value


@torch.no_grad()
def initialise(model: Transformer, seed: int) -> None:
    """Fill every parameter of a model that is not sharded with its `initial_values`."""
    for name, value in initial_values(model, seed):
        model.get_parameter(name).copy_(value)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable numbers; a matrix shared by embedding and head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())

"""One typed configuration for a run, read from and written to TOML.

A preset is a starting point, a TOML file or `--set section.field=value` changes it, and the
result is written once as `config.toml` in the run's folder. Nothing else configures a run.
"""

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from x1.text import UserError, say

FORMAT = "x1-config-1"
SECRET = re.compile(r"hf_[A-Za-z0-9]{20,}|(AKIA|ASIA)[0-9A-Z]{16}")  # tokens and access keys


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Section):
    """Shape of the decoder-only transformer (the Qwen3 shape without grouped heads)."""

    vocab_size: int = Field(2048, ge=2)
    n_layers: int = Field(4, ge=1)
    n_heads: int = Field(4, ge=1)
    d_model: int = Field(128, ge=2)
    d_ff: int = Field(384, ge=1, description="hidden width of SwiGLU")
    context: int = Field(256, ge=2, description="tokens per sequence")
    tied: bool = Field(True, description="input embedding and output head share one matrix")
    qk_norm: bool = Field(True, description="RMSNorm on queries and keys")
    rope_theta: float = Field(10_000.0, gt=0)
    norm_eps: float = Field(1e-6, gt=0)
    embedding_std: float = Field(0.01, gt=0, description="initial std of embedding and head")

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.d_model % self.n_heads or self.head_dim % 2:
            nearest = max(
                2 * self.n_heads, round(self.d_model / (2 * self.n_heads)) * 2 * self.n_heads
            )
            raise ValueError(
                say("config.d_model", d_model=self.d_model, n_heads=self.n_heads, nearest=nearest)
            )
        return self


class OptimConfig(_Section):
    """Muon for hidden matrices, AdamW for the rest (or AdamW for all), and the schedule."""

    name: Literal["muon", "adamw"] = "muon"
    lr: float = Field(3e-3, gt=0, lt=10, description="peak learning rate, on AdamW's scale")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.95, ge=0, lt=1, description="Muon's momentum")
    weight_decay: float = Field(0.1, ge=0, description="on matrices; never on embeddings and gains")
    clip: float = Field(1.0, ge=0, description="global gradient norm; 0 turns clipping off")
    z_loss: float = Field(0.0, ge=0, description="weight of mean(logsumexp(logits)^2)")
    weight_dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="in which an update leaves the weights; bf16 rounds small ones away"
    )
    schedule: Literal["linear", "wsd", "constant"] = "linear"
    warmup_steps: int = Field(100, ge=0)
    cooldown_fraction: float = Field(0.2, ge=0, le=1, description="WSD: last part of the run")


class DataConfig(_Section):
    """Where the tokens come from. `name` is the folder under `data/`."""

    source: Literal["verbs", "text", "dataset"] = "verbs"
    name: str = Field("", description="folder under data/; empty: a name made from the source")
    files: tuple[str, ...] = Field((), description="source = text: UTF-8 files, in this order")
    dataset: str = Field("", description="source = dataset: a Hugging Face name or a local folder")
    subset: str = Field("", description="the dataset's configuration, such as sample-10BT")
    column: str = Field("text", description="the dataset's text column")
    corpus_setting: Literal["rehearsal", "scaling"] = "rehearsal"
    train_tokens: int = Field(
        0, ge=0, description="tokens to prepare; 0: all there is (text) or the run's own (verbs)"
    )
    held_out_fraction: float = Field(0.1, gt=0, lt=1, description="source = text: the last part")
    held_out_documents: int = Field(500, ge=1, description="verbs and datasets: documents kept out")
    tokenizer: Literal["bpe", "bytes"] = "bpe"
    seed: int = Field(0, ge=0)


class TrainConfig(_Section):
    """The loop: how much, in which precision, on what."""

    steps: int = Field(1000, ge=1)
    batch_sequences: int = Field(
        32, ge=1, description="sequences per optimizer step, over all ranks"
    )
    micro_batch: int | Literal["auto"] = Field(
        "auto", description="sequences per forward pass and rank"
    )
    seed: int = Field(0, ge=0)
    dtype: Literal["fp32", "bf16"] = Field("fp32", description="of activations; weights stay fp32")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(2, ge=1, description="CPU threads; part of bit-for-bit reproduction")
    compile: bool = False
    recompute: bool = Field(False, description="activation checkpointing")
    deterministic: bool = False
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="under torchrun with several ranks")

    @field_validator("micro_batch")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(say("config.at_least", least=1))
        return value


class CheckpointConfig(_Section):
    every_steps: int = Field(250, ge=1)
    every_minutes: float = Field(10.0, gt=0)
    keep: int = Field(
        2, ge=1, description="newest checkpoints kept; good one and milestones besides"
    )
    milestones: tuple[int, ...] = Field((), description="steps whose checkpoints are never pruned")
    mirror: str = Field("", description="file:///…, s3://… or hf://…: a second copy of the run")

    @field_validator("mirror", mode="before")
    @classmethod
    def _without_secrets(cls, value: Any) -> Any:
        fault = mirror_fault(str(value)) if value else None
        if fault:
            raise ValueError(say(fault))
        return value


def mirror_fault(uri: str) -> str | None:
    """The key of the sentence that refuses this URI, or None. The sentence never repeats it."""
    scheme, separator, rest = uri.partition("://")
    if separator and (
        SECRET.search(rest) or "@" in rest.partition("/")[0] or set("?#") & set(rest)
    ):
        return "mirror.secret"
    if scheme not in ("file", "s3", "hf") or not rest.strip("/") or "::" in uri:
        return "mirror.scheme"
    return "mirror.relative" if scheme == "file" and not rest.startswith("/") else None


class EvaluateConfig(_Section):
    every_steps: int = Field(100, ge=1)
    tokens: int = Field(65_536, ge=1, description="held-out tokens scored each time, at most")


class SampleConfig(_Section):
    prompts: tuple[str, ...] = ()
    milestones: tuple[int, ...] = Field((0,), description="steps at which samples are drawn")
    max_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.8, ge=0, description="0 is greedy")


class StabilityConfig(_Section):
    """What counts as a spike, and what is done about one."""

    policy: Literal["rollback", "skip", "off"] = "rollback"
    window: int = Field(
        50, ge=16, description="steps of trend, and of quiet that make a checkpoint good"
    )
    threshold: float = Field(8.0, gt=0, description="robust standard deviations above the trend")
    max_rollbacks: int = Field(3, ge=0)
    inject: tuple[str, ...] = Field((), description='point triggers, "kind@data_index"')


class MoneyConfig(_Section):
    """Prices and limits. Every amount is in US dollars."""

    hardware: str = Field(
        "own-cpu", description="a name from the hardware table (`x1 plan --help`)"
    )
    price_usd_per_hour: float | None = Field(None, gt=0, description="None: the price table's")
    price_date: str = Field("", description="ISO date of a typed price")
    price_source: str = Field(
        "", description="where the price is read while the run goes on (see `x1.price`)"
    )
    counted: tuple[str, ...] = Field(
        (), description="folders whose ledgers count towards this ceiling: a ladder, a first try"
    )
    stop_command: str = Field("", description="rented: ends the machine, for the dead-man's timer")
    max_lifetime_hours: float | None = Field(
        None, gt=0, description="rented: after so many hours the provider ends the machine"
    )
    watts: float | None = Field(None, gt=0, description="own machine: measured or stated draw")
    tariff_usd_per_kwh: float = Field(0.20, gt=0)
    lab_budget_usd: float = Field(35.0, gt=0)
    ceiling_usd: float = Field(50.0, gt=0)
    on_alert: Literal["ask", "stop", "continue"] = Field(
        "ask",
        description="projection above the alert line; ask stops when nobody is at the terminal",
    )

    @field_validator("price_source")
    @classmethod
    def _named_source(cls, value: str) -> str:
        if value and not re.fullmatch(r"file:.+|command:.+|query:https?://.+#.+", value):
            raise ValueError(say("config.price_source"))
        return value


class TrackConfig(_Section):
    """Where the lines of metrics.jsonl go besides: for eyes that are used to another tool."""

    to: Literal["none", "tensorboard", "trackio"] = "none"


class RunConfig(_Section):
    """Everything that decides a run, and nothing else."""

    preset: str = "custom"
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sample: SampleConfig = SampleConfig()
    stability: StabilityConfig = StabilityConfig()
    money: MoneyConfig = MoneyConfig()
    track: TrackConfig = TrackConfig()

    @model_validator(mode="after")
    def _vocabulary_of_bytes(self) -> Self:
        if self.data.tokenizer == "bytes" and self.model.vocab_size != 257:
            raise ValueError(say("config.bytes_vocabulary", value=self.model.vocab_size))
        return self

    @property
    def batch_tokens(self) -> int:
        """Tokens per optimizer step, over all ranks."""
        return self.train.batch_sequences * self.model.context

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.train.steps * self.batch_tokens


FINEWEB_EDU = {"source": "dataset", "dataset": "HuggingFaceFW/fineweb-edu", "subset": "sample-10BT"}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # The capstone: 46.9M parameters, 128 sequences x 1,024 tokens = 131,072 tokens a step. About 50M
    # is the brief's choice; docs/configuration.md derives the rest. 5B tokens are the most whose dear
    # end, with ladder and one re-launch, stays within the lab budget. The shape has the cheapest
    # tokens of those near 50M. The batch lies between what laws want for the ladder's 1B tokens and
    # for 5B, the learning rate between what they want at that batch. Linear to zero is the default.
    "x1-50m": {
        "model": {"vocab_size": 16_384, "n_layers": 12, "n_heads": 8, "d_model": 512, "d_ff": 1408, "context": 1024},
        "optim": {"lr": 3e-3, "warmup_steps": 500, "z_loss": 1e-5},
        "data": {**FINEWEB_EDU, "train_tokens": 5_000_000_000, "held_out_documents": 5_000},
        "train": {"steps": 38_147, "batch_sequences": 128, "dtype": "bf16", "compile": True},
        "checkpoint": {"every_steps": 500, "every_minutes": 5.0},
        "evaluate": {"every_steps": 500, "tokens": 1_048_576},
        "sample": {"prompts": ("The history of", "Water boils when"), "milestones": (0, 200, 10_000, 38_147)},
        "money": {"hardware": "a100-80gb"},
    },
    # The whole capstone in miniature: CPU, generated corpus, about three minutes.
    "rehearsal": {
        "model": {"vocab_size": 1024, "n_layers": 4, "n_heads": 4, "d_model": 128, "d_ff": 384, "context": 128},
        "optim": {"lr": 6e-3, "warmup_steps": 30},
        "data": {"source": "verbs", "corpus_setting": "rehearsal"},
        "train": {"steps": 240, "batch_sequences": 32},
        "checkpoint": {"every_steps": 40, "every_minutes": 5.0},
        "evaluate": {"every_steps": 40, "tokens": 16_384},
        "sample": {"prompts": ("yo", "nosotros"), "milestones": (0, 80, 240), "max_tokens": 48},
        "stability": {"window": 24, "inject": ("lr-x100@105",)},
    },
    # Tiny Shakespeare as bytes, 1.536M training tokens: the public reference point.
    "shakespeare-bytes": {
        "model": {"vocab_size": 257, "n_layers": 4, "n_heads": 4, "d_model": 128, "d_ff": 320, "context": 64, "rope_theta": 100.0, "embedding_std": 0.015},
        "optim": {"lr": 5e-3, "beta2": 0.99, "warmup_steps": 50},
        "data": {"source": "text", "tokenizer": "bytes", "held_out_fraction": 0.1},
        "train": {"steps": 3000, "batch_sequences": 8},
        "evaluate": {"every_steps": 500, "tokens": 200_000},
        "sample": {"prompts": ("ROMEO:",), "milestones": (0, 500, 3000)},
    },
    # The field reports, at the sizes they claim; shapes are ours where a report gives none.
    "minigpt-500k": {
        "model": {"vocab_size": 257, "n_layers": 4, "n_heads": 4, "d_model": 96, "d_ff": 288, "context": 128},
        "data": {"source": "text", "tokenizer": "bytes"},
    },
    "baby-7m": {
        "model": {"vocab_size": 8192, "n_layers": 6, "n_heads": 4, "d_model": 256, "d_ff": 704, "context": 512},
        "data": {"source": "text"},
    },
    "gpt2-small-163m": {
        "model": {"vocab_size": 50_257, "n_layers": 12, "n_heads": 12, "d_model": 768, "d_ff": 2048, "context": 1024, "tied": False},
        "data": {**FINEWEB_EDU, "dataset": "HuggingFaceFW/fineweb", "train_tokens": 3_200_000_000},
        "train": {"steps": 6104, "batch_sequences": 512, "dtype": "bf16", "compile": True},
        "money": {"hardware": "rtx-3090"},
    },
    "sonnet-300m": {
        "model": {"vocab_size": 32_768, "n_layers": 24, "n_heads": 15, "d_model": 960, "d_ff": 2560, "embedding_std": 0.004, "context": 1024},
        "data": FINEWEB_EDU,
        "train": {"dtype": "bf16", "compile": True, "batch_sequences": 128},
        "checkpoint": {"every_steps": 500},
        "money": {"hardware": "rtx-5090"},
    },
    "opus-600m": {
        "model": {"vocab_size": 32_768, "n_layers": 28, "n_heads": 20, "d_model": 1280, "d_ff": 3456, "embedding_std": 0.003, "context": 1024},
        "data": FINEWEB_EDU,
        "train": {"dtype": "bf16", "compile": True, "batch_sequences": 128},
        "checkpoint": {"every_steps": 500},
        "money": {"hardware": "rtx-5090"},
    },
    "gpuburnout-1b": {
        "model": {"vocab_size": 32_005, "n_layers": 18, "n_heads": 16, "d_model": 2048, "d_ff": 5632, "embedding_std": 0.002, "context": 2048},
        "data": FINEWEB_EDU,
        "train": {"steps": 90_000, "batch_sequences": 64, "dtype": "bf16", "compile": True},
        "money": {"hardware": "a100-80gb"},
    },
}  # fmt: skip


def nearest(word: str, known: list[str]) -> str:
    """The known word most like `word`; there is always one."""
    return difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]


def preset(name: str) -> dict[str, Any]:
    """The raw sections of a preset. Raises UserError naming the nearest one."""
    if name not in PRESETS:
        raise UserError("config.unknown_preset", name=name, nearest=nearest(name, list(PRESETS)))
    return {"preset": name, **PRESETS[name]}


def build(
    preset_name: str | None = None,
    file: Path | None = None,
    settings: tuple[str, ...] = (),
    **sections: dict[str, Any],
) -> RunConfig:
    """A configuration from a preset, then a TOML file, then `sections`, then "field=value"s.

    Raises UserError naming the field, its value, and the nearest valid one.
    """
    raw: dict[str, Any] = {}
    _merge(raw, preset(preset_name) if preset_name else {})
    _merge(raw, read_toml(file) if file else {})
    _merge(raw, sections)
    for setting in settings:
        _merge(raw, _parse_setting(setting))
    return validate(raw)


def validate(raw: dict[str, Any]) -> RunConfig:
    """RunConfig from plain data; the first fault is raised as a UserError."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as fault:
        raise _as_user_error(fault) from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data, its `format` checked and dropped."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError("config.no_file", path=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise UserError("config.not_toml", path=path, fault=fault) from None
    if raw.pop("format", FORMAT) != FORMAT:
        raise UserError("config.format", path=path, expected=FORMAT)
    return raw


def to_toml(config: RunConfig) -> str:
    """The configuration as TOML, every field written out (None fields are absent)."""
    lines = [f'format = "{FORMAT}"', f"preset = {_toml(config.preset)}"]
    for name, section in config.model_dump(exclude={"preset"}, exclude_none=True).items():
        lines += ["", f"[{name}]"]
        lines += [f"{field} = {_toml(value)}" for field, value in section.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON's scalars and arrays are TOML's too, but for one character TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Names of the fields in which two configurations differ, "section.field"."""
    a, b = old.model_dump(), new.model_dump()
    return [
        f"{section}.{field}"
        for section in a
        if isinstance(a[section], dict)
        for field in a[section]
        if a[section][field] != b[section][field]
    ]


def field_names() -> list[str]:
    """Every "section.field" a configuration has."""
    return [
        f"{section}.{field}"
        for section, info in RunConfig.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        for field in info.annotation.model_fields
    ]


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict):
            section = into.setdefault(key, {})
            if not isinstance(section, dict):
                raise UserError(
                    "config.unknown_field", field=key, nearest=nearest(key, field_names())
                )
            section.update(value)
        else:
            into[key] = value


def _parse_setting(setting: str) -> dict[str, Any]:
    name, equals, text = setting.partition("=")
    section, dot, field = name.strip().partition(".")
    if not equals:
        raise UserError("config.setting", setting=setting)
    if not dot or name.strip() not in field_names():
        raise UserError("config.unknown_field", field=name, nearest=nearest(name, field_names()))
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word: --set data.source=text
    return {section: {field: value}}


def _as_user_error(fault: ValidationError) -> UserError:
    first = fault.errors()[0]
    path = [
        str(part) for part in first["loc"] if str(part) in _known_parts() or len(first["loc"]) <= 2
    ]
    field, value = ".".join(path), first["input"]
    context = first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        return UserError("config.unknown_field", field=field, nearest=nearest(field, field_names()))
    if first["type"] == "literal_error":
        choices = [
            word.strip("' ") for word in str(context["expected"]).replace(" or ", ", ").split(", ")
        ]
        return UserError(
            "config.choice",
            field=field,
            value=value,
            choices=", ".join(choices),
            nearest=nearest(str(value), choices),
        )
    bounds = [context[name] for name in ("ge", "gt", "le", "lt") if name in context]
    if bounds:
        return UserError(
            "config.bound",
            field=field,
            value=value,
            rule=first["type"].replace("_", " "),
            bound=bounds[0],
        )
    if first["type"] == "value_error":
        return UserError("config.impossible", field=field, reason=context["error"])
    return UserError(
        "config.type",
        field=field,
        value=value,
        expected=first["type"].removesuffix("_type").removesuffix("_parsing"),
    )


def _known_parts() -> set[str]:
    return {part for name in field_names() for part in name.split(".")}

"""The artefact: `runs/NAME/model/`, loadable by transformers and lm-eval unchanged.

The model is Qwen3's shape, or Llama's when it has no norm on queries and keys, so the folder
holds plain weights under that model's names, its config.json, and the tokenizer. No code.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from x1 import checkpoint, data, evaluate, folder
from x1.config import ModelConfig


def export(run: Path, step: int | None = None) -> Path:
    """Write `model/` from the newest checkpoint (or the one at `step`); returns its path.

    Written aside and renamed; an earlier artefact is replaced only by a whole one.
    """
    model, config, at = evaluate.load(run, step)
    dataset = data.open_data(data.path_of(config))
    weights = {
        name if name.startswith("lm_head") else f"model.{name}": tensor
        for name, tensor in checkpoint.model_tensors(model).items()
    }
    final = run / folder.MODEL
    aside = run / f".{folder.MODEL}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        metadata = {"format": "pt", "x1_step": str(at)}
        seals = {"plan": folder.plan_digest(run), "prediction": folder.prediction_digest(run)}
        metadata |= {f"x1_{name}_sha256": seal for name, seal in seals.items() if seal}
        checkpoint.save_tensors(weights, aside / "model.safetensors", metadata)
        files = {
            "config.json": transformers_config(config.model, dataset.end_of_document),
            "generation_config.json": {"eos_token_id": dataset.end_of_document},
            "tokenizer_config.json": tokenizer_config(config.model),
        }
        for name, content in files.items():
            (aside / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        shutil.copyfile(data.path_of(config) / "tokenizer.json", aside / "tokenizer.json")
        for path in (*aside.iterdir(), aside):
            folder.sync(path)
        folder.replace_folder(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def transformers_config(model: ModelConfig, end_of_document: int) -> dict[str, Any]:
    """config.json for transformers' Qwen3ForCausalLM (LlamaForCausalLM without QK-norm)."""
    family = "Qwen3" if model.qk_norm else "Llama"
    return {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        # transformers 5 reads the second, 4 the first.
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "tie_word_embeddings": model.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def tokenizer_config(model: ModelConfig) -> dict[str, Any]:
    """tokenizer_config.json: documents end, and therefore also begin, with <|endoftext|>."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "model_max_length": model.context,
        "clean_up_tokenization_spaces": False,
    }

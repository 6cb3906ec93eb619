"""The artefact is what other tools make of it: transformers loads it and says what we say."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from x1 import checkpoint, config, data, evaluate, export, folder
from x1.model import Transformer

CPU = torch.device("cpu")
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
TEXTS = (
    "yo hablo para lemi = I speak for ledmip\n",
    "él pensaría = he would think\n",
    "  two  spaces,\ttabs\n\n and 1,234.5!",
    "日本語 🙂 \x7f",
    "",
)


@pytest.fixture
def make_checkpoint(here, tiny):
    """make_checkpoint(data, settings, step): a run whose weights are large and random, so that
    what it says depends on all of them."""

    def make(name, sections, *settings, step=10, plan=None):
        chosen = config.build("shakespeare-bytes", settings=(*tiny[1::2], *settings), data=sections)
        data.prepare(chosen, quiet=True)
        run = here / name
        folder.claim(run, chosen)
        if plan:
            (run / folder.PLAN).write_text(plan)
        model = Transformer(chosen.model)
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3, generator=generator)
        checkpoint.write(run, step, checkpoint.model_tensors(model), {}, {"attempt": 1})
        return run

    return make


WORDS = {"source": "text", "files": ["words.txt"]}
VERBS = {
    "source": "verbs",
    "tokenizer": "bpe",
    "train_tokens": 5000,
    "held_out_documents": 10,
}
KINDS = {
    "bytes, tied": (WORDS, ()),
    "bytes, untied": (WORDS, ("model.tied=false",)),
    "bytes, no norm on queries and keys": (WORDS, ("model.qk_norm=false",)),
    "BPE, tied": (VERBS, ("model.vocab_size=300",)),
    "BPE, untied": (VERBS, ("model.vocab_size=300", "model.tied=false")),
}


def theirs_of(artefact):
    """Model and tokenizer as anybody loads them: from the folder alone, and no code from it."""
    local = {"local_files_only": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(artefact, **local)
    return model.eval(), AutoTokenizer.from_pretrained(artefact, **local)


def says_the_same(run, artefact, prompts):
    """Assert equal ids, text and greedy tokens, for prompts up to a full context."""
    ours, chosen, _ = evaluate.load(run)
    dataset = data.open_data(data.path_of(chosen))
    theirs, tokenizer = theirs_of(artefact)
    end, context = dataset.end_of_document, chosen.model.context
    assert theirs.dtype == torch.float32
    tied = theirs.lm_head.weight is theirs.model.embed_tokens.weight
    assert tied == theirs.config.tie_word_embeddings == chosen.model.tied
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == end
    assert theirs.generation_config.eos_token_id == end
    assert len(tokenizer) == dataset.vocab_size == theirs.config.vocab_size
    said = []
    for text in TEXTS:
        ids = dataset.tokenizer.encode(text)
        assert tokenizer(text)["input_ids"] == ids
        assert tokenizer.decode(ids) == dataset.tokenizer.decode(ids) == text
    for prompt in prompts:
        ids = [end, *dataset.tokenizer.encode(prompt)][: context - 8]
        new = evaluate.generate(ours, ids, context - len(ids), context, CPU, stop=end)
        whole = theirs.generate(
            torch.tensor([ids]), max_new_tokens=context - len(ids), do_sample=False
        )[0].tolist()
        assert whole[: len(ids)] == ids
        assert [token for token in whole[len(ids) :] if token != end] == new
        said.append(tuple(new))
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_says_the_same_from_the_folder_alone(make_checkpoint, kind):
    sections, settings = KINDS[kind]
    run = make_checkpoint("run", sections, *settings)
    artefact = export.export(run)
    assert artefact == run / "model"
    said = says_the_same(run, artefact, ("", "yo", "The", "nosotros hab"))
    assert len(set(said)) > 1 and len({token for new in said for token in new}) > 5


def test_the_artefact_of_a_trained_run(make_run, trainer):
    run = make_run("run", "train.steps=20", "optim.lr=0.02")
    process = trainer(run)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    artefact = export.export(run)
    said = says_the_same(run, artefact, ("the ", "one small"))
    assert all(said)
    weights = checkpoint.path_of(run, 20) / checkpoint.MODEL
    with (
        safe_open(artefact / "model.safetensors", "pt") as shipped,
        safe_open(weights, "pt") as saved,
    ):
        assert shipped.metadata() == {"format": "pt", "x1_step": "20"}
        for name in saved.keys():  # noqa: SIM118 - not a mapping
            assert shipped.get_tensor(f"model.{name}").equal(saved.get_tensor(name))


@pytest.mark.parametrize("tied", ["true", "false"])
def test_weights_and_json_and_nothing_else(make_checkpoint, tied):
    run = make_checkpoint("run", WORDS, f"model.tied={tied}", plan="{}")
    artefact = export.export(run)
    assert {path.name for path in artefact.iterdir()} == FILES
    for path in artefact.glob("*.json"):
        assert "auto_map" not in json.loads(path.read_text("utf-8"))
    with safe_open(artefact / "model.safetensors", "pt") as file:  # no pickle: it would not open
        assert ("lm_head.weight" in set(file.keys())) == (tied == "false")
        assert file.metadata()["x1_plan_sha256"] == folder.plan_digest(run)
    assert (artefact / "tokenizer.json").read_bytes() == (
        data.path_of(folder.open_run(run)) / "tokenizer.json"
    ).read_bytes()


def content(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def exported(make_checkpoint):
    """A run with an artefact of step 10 and a newer checkpoint at step 20."""
    run = make_checkpoint("run", WORDS)
    export.export(run)
    make_checkpoint("run", WORDS, step=20)
    return run


def step_of(run):
    with safe_open(run / "model" / "model.safetensors", "pt") as file:
        return file.metadata()["x1_step"]


def test_the_newest_checkpoint_or_the_one_asked_for(exported):
    assert step_of(exported) == "10"
    export.export(exported)
    assert step_of(exported) == "20"
    export.export(exported, step=10)
    assert step_of(exported) == "10"
    assert not list(exported.glob(".model*"))


@pytest.mark.parametrize("where", ["weights", "config", "tokenizer", "first rename", "last rename"])
def test_a_failure_leaves_the_older_artefact_as_it_was(exported, monkeypatch, where):
    before = content(exported)
    calls = []

    def failing(real, at=1):
        def call(*arguments, **options):
            calls.append(arguments)
            if len(calls) == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(
        *{
            "weights": (checkpoint, "save_file", failing(checkpoint.save_file)),
            "config": (Path, "write_text", failing(Path.write_text)),
            "tokenizer": (shutil, "copyfile", failing(shutil.copyfile)),
            "first rename": (Path, "rename", failing(Path.rename)),
            "last rename": (Path, "rename", failing(Path.rename, 2)),
        }[where]
    )
    with pytest.raises(OSError, match="No space"):
        export.export(exported)
    assert content(exported) == before


@pytest.mark.parametrize("left", [".model.tmp", ".model.old"])
def test_what_a_kill_left_behind_does_not_hinder(exported, left):
    shutil.copytree(exported / "model", exported / left)
    export.export(exported)
    assert step_of(exported) == "20"
    assert not list(exported.glob(".model*"))

"""Scores: each held-out token counted once, in its own document, against an exact floor."""

import json
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from x1 import checkpoint, config, corpus, data, evaluate, folder, tokenizer
from x1.data import Data, TokenStream
from x1.evaluate import UNSCORED
from x1.model import Transformer, initialise
from x1.text import UserError

END = 256
CPU = torch.device("cpu")
SHAPE = {"vocab_size": 257, "n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 48, "context": 16}


def dataset_of(*documents, train=b"some training text"):
    """Prepared bytes, in memory."""
    held_out = np.concatenate([[*document, END] for document in documents]).astype(np.uint16)
    starts = np.cumsum([0, *(len(document) + 1 for document in documents[:-1])])
    return Data(
        name="made-up",
        index={"source": {"kind": "text"}},
        vocab_size=257,
        end_of_document=END,
        train=TokenStream((np.frombuffer(train, np.uint8).astype(np.uint16),)),
        held_out=held_out,
        held_out_starts=starts,
        held_out_bytes=sum(map(len, documents)),
        fingerprint="",
        tokenizer=tokenizer.byte_tokenizer(),
    )


def a_model(**shape):
    """A model whose predictions depend on everything before them."""
    model = Transformer(config.ModelConfig(**SHAPE | shape))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model


def config_of(**model):
    return config.build("shakespeare-bytes", model=SHAPE | model)


def score(model, dataset, context=16, tokens=10**9):
    return evaluate.held_out_loss(model, dataset, config_of(context=context), CPU, tokens)


@torch.no_grad()
def nats_alone(model, before, targets):
    """-log p of `targets` after the token `before`: one sequence, no batch and no padding."""
    ids = torch.tensor([[before, *targets[:-1]]])
    log_p = model(ids)[0].double().log_softmax(-1)
    return float(-log_p[range(len(targets)), list(targets)].sum())


# ---- Documents


DOCUMENTS = (b"a", b"be at ease", "año".encode(), b"fifteen letters", b"x = y\n", b"zz")


def test_each_document_is_scored_from_its_beginning_to_its_end():
    model, dataset = a_model(), dataset_of(*DOCUMENTS)
    result = score(model, dataset)
    expected = [nats_alone(model, END, [*document, END]) for document in DOCUMENTS]
    assert result.mode == "documents"
    assert result.tokens == sum(len(document) + 1 for document in DOCUMENTS)
    assert result.nats == pytest.approx(sum(expected), rel=1e-6)
    assert result.nats_per_token == result.nats / result.tokens


@pytest.mark.parametrize("score_tokens", [1, 2, 3, 13, 18, 10**6])
def test_a_limit_leaves_out_whole_documents_but_never_the_first(score_tokens):
    ends = np.cumsum([len(document) + 1 for document in DOCUMENTS])
    scored = score(a_model(), dataset_of(*DOCUMENTS), tokens=score_tokens).tokens
    assert scored == max([end for end in ends if end <= score_tokens], default=ends[0])


def test_a_document_that_fills_the_context_is_still_whole():
    assert score(a_model(), dataset_of(b"f" * 15)).mode == "documents"
    assert score(a_model(), dataset_of(b"s" * 16)).mode == "windows"


# ---- Windows


@settings(deadline=None, max_examples=80)
@given(
    length=st.integers(20, 200),
    context=st.integers(2, 19),
    batch=st.integers(1, 300),
    limit=st.integers(1, 300),
)
def test_windows_hold_every_target_exactly_once(length, context, batch, limit):
    document = np.random.default_rng(length).integers(0, 256, length).astype(np.uint8)
    dataset = dataset_of(document.tobytes())
    batches = list(evaluate.held_out_batches(dataset, context, limit, batch))
    assert len({(*inputs.shape, *targets.shape) for inputs, targets in batches}) == 1
    rows = [pair for inputs, targets in batches for pair in zip(inputs, targets, strict=True)]
    last = min(len(dataset.held_out) - 1, limit)
    seen = 0
    for inputs, targets in rows:
        wanted = targets != UNSCORED
        n = int(wanted.sum())
        assert wanted[:n].all() and n <= context  # padding comes last
        assert inputs[:n].tolist() == dataset.held_out[seen : seen + n].tolist()
        assert targets[:n].tolist() == dataset.held_out[seen + 1 : seen + 1 + n].tolist()
        assert n == min(context, last - seen)  # full windows, then the ragged end, then padding
        seen += n
    assert seen == last


def test_windows_are_scored_each_on_its_own():
    text = bytes(np.random.default_rng(0).integers(0, 256, 77).astype(np.uint8))
    model, dataset = a_model(), dataset_of(text)
    tokens = dataset.held_out.tolist()
    expected = [
        nats_alone(model, tokens[a], tokens[a + 1 : a + 17]) for a in range(0, len(tokens) - 1, 16)
    ]
    result = score(model, dataset)
    assert (result.mode, result.tokens) == ("windows", 77)
    assert result.nats == pytest.approx(sum(expected), rel=1e-6)


@pytest.mark.parametrize("documents", [DOCUMENTS, (b"one long document " * 20,)])
def test_the_batch_size_changes_nothing(monkeypatch, documents):
    results = []
    for size in (1, 40, 100, 16_384):
        monkeypatch.setattr(evaluate, "BATCH_TOKENS", {"cpu": size})
        results.append(score(a_model(), dataset_of(*documents)))
    assert len({(r.tokens, r.mode) for r in results}) == 1
    for other in results[1:]:
        assert other.nats == pytest.approx(results[0].nats, rel=1e-6)


def test_scoring_leaves_the_model_training_and_without_gradients():
    model = a_model().train()
    score(model, dataset_of(*DOCUMENTS))
    assert model.training and all(p.grad is None for p in model.parameters())


# ---- What a loss is held against


def test_the_unigram_loss_is_that_of_counting():
    train, held_out = b"abracadabra \xc3\xa9", (b"bad cab", b"zebra")
    counts = Counter(train)
    total = len(train) + 257  # one more of each
    tokens = [*held_out[0], END, *held_out[1], END]
    expected = -sum(math.log((counts[token] + 1) / total) for token in tokens) / len(tokens)
    assert evaluate.unigram_loss(dataset_of(*held_out, train=train)) == pytest.approx(expected)


SETTINGS = {"bytes": ("model.vocab_size=257",), "bpe": ("model.vocab_size=300",)}


@pytest.fixture
def make_verbs(here):
    """make_verbs(tokenizer, setting): a prepared part of the generated corpus and its config."""

    def make(kind="bpe", setting="rehearsal", documents=300):
        chosen = config.build(
            "rehearsal",
            settings=(f"data.tokenizer={kind}", *SETTINGS[kind], f"data.corpus_setting={setting}",
                      f"data.held_out_documents={documents}", "data.train_tokens=3000",
                      "model.n_layers=1", "model.n_heads=2", "model.d_model=16",
                      "model.d_ff=16", "model.context=512", "train.threads=1"),
        )  # fmt: skip
        data.prepare(chosen, quiet=True)
        return data.open_data(data.path_of(chosen)), chosen

    return make


@pytest.mark.parametrize("kind", SETTINGS)
def test_english_tokens_are_those_that_begin_in_an_english_half(make_verbs, kind):
    dataset, _ = make_verbs(kind, documents=100)
    english = evaluate.english_tokens(dataset)
    assert english.dtype == bool and len(english) == len(dataset.held_out)
    texts = evaluate.held_out_texts(dataset)
    setting = corpus.SETTINGS["rehearsal"]
    assert texts == corpus.documents(setting, 0, 0, 100)
    position = 0
    for text in texts:
        halves = [line.partition("=") for line in text.splitlines(keepends=True)]
        of_byte = "".join(
            "s" * len((spanish + mark).encode()) + "e" * len(rest.encode())
            for spanish, mark, rest in halves
        )
        offset = 0
        while (token := int(dataset.held_out[position])) != dataset.end_of_document:
            assert english[position] == (of_byte[offset] == "e")
            offset += len(dataset.tokenizer.token_bytes(token))
            position += 1
        assert offset == len(of_byte) and not english[position]
        position += 1
    assert position == len(english)


@pytest.mark.parametrize("setting", corpus.SETTINGS)
def test_a_model_that_knows_the_law_scores_the_documents_own_floor(make_verbs, setting):
    dataset, _ = make_verbs("bytes", setting)
    english = evaluate.english_tokens(dataset)
    law = corpus.SETTINGS[setting]
    texts = corpus.documents(law, 0, 0, 300)
    nats = -sum(corpus.log_probability(text, law) for text in texts)
    english_nats = -sum(corpus.half_log_probabilities(text, law)[1] for text in texts)
    tokens = sum(len(text.encode()) + 1 for text in texts)
    english_bytes = sum(int(corpus.english_bytes(text).sum()) for text in texts)
    exact = corpus.floor(law)

    found = evaluate.floors(dataset, english, nats, english_nats)
    assert found["loss_nats_per_token"] == pytest.approx(nats / tokens)
    assert found["these_documents_nats_per_token"] == pytest.approx(nats / tokens)
    assert found["nats_per_token"] == pytest.approx(exact.nats_per_document * 300 / tokens)
    half = found["english"]
    assert half["loss_nats_per_token"] == pytest.approx(english_nats / english_bytes)
    assert half["these_documents_nats_per_token"] == pytest.approx(half["loss_nats_per_token"])
    assert half["nats_per_token"] == pytest.approx(exact.english_nats * 300 / english_bytes)
    # 300 documents are a sample: their own floor is near the law's, and is not the law's.
    deviation = np.std([corpus.log_probability(text, law) for text in texts]) * math.sqrt(300)
    assert 0 < abs(nats - exact.nats_per_document * 300) < 4 * deviation


def save(run, model, step=10):
    checkpoint.write(run, step, checkpoint.model_tensors(model), {}, {"attempt": 1})


def test_a_run_on_the_corpus_is_scored_whole_and_by_half(make_verbs, here):
    dataset, chosen = make_verbs(documents=60)
    run = here / "run"
    folder.claim(run, chosen)
    model = Transformer(chosen.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    save(run, model)
    result = evaluate.evaluate(run)
    assert result == json.loads((run / folder.EVALUATION).read_text("utf-8"))

    english = evaluate.english_tokens(dataset)
    nats = np.zeros(len(english))
    bounds = [*dataset.held_out_starts, len(english)]
    with torch.no_grad():
        for a, b in pairwise(bounds):
            tokens = dataset.held_out[a:b].astype(np.int64)
            ids = torch.tensor([[dataset.end_of_document, *tokens[:-1]]])
            log_p = model(ids)[0].double().log_softmax(-1).numpy()
            nats[a:b] = -log_p[range(b - a), tokens]
    held_out, floor = result["held_out"], result["floor"]
    size = sum(len(text.encode()) for text in evaluate.held_out_texts(dataset))
    assert (result["step"], result["format"]) == (10, evaluate.FORMAT)
    assert (held_out["mode"], held_out["tokens"]) == ("documents", len(english))
    assert held_out["bytes"] == size
    assert held_out["loss_nats_per_token"] == pytest.approx(nats.mean(), rel=1e-5)
    assert held_out["bits_per_byte"] == pytest.approx(nats.sum() / math.log(2) / size, rel=1e-5)
    assert result["unigram_nats_per_token"] == evaluate.unigram_loss(dataset)
    assert floor["loss_nats_per_token"] == held_out["loss_nats_per_token"]
    half = floor["english"]["loss_nats_per_token"]
    assert half == pytest.approx(nats[english].mean(), rel=1e-5)
    said = evaluate.describe(result)
    assert f"{held_out['loss_nats_per_token']:.4f}" in said and f"{half:.4f}" in said


def test_documents_longer_than_the_context_have_no_floor(make_verbs, here):
    _, chosen = make_verbs(documents=20)
    chosen = config.validate(
        chosen.model_dump() | {"model": {**chosen.model.model_dump(), "context": 8}}
    )
    run = here / "run"
    folder.claim(run, chosen)
    model = Transformer(chosen.model)
    initialise(model, 0)
    save(run, model)
    result = evaluate.evaluate(run)
    assert (result["held_out"]["mode"], result["floor"]) == ("windows", None)


def test_a_run_on_natural_text_has_no_floor(make_run):
    run = make_run("run")
    save(run, a_model())
    save(run, a_model(), step=20)
    result = evaluate.evaluate(run, step=10)
    text = (run.parent / "words.txt").read_bytes()
    held_out = result["held_out"]
    assert (result["step"], result["floor"], held_out["mode"]) == (10, None, "windows")
    assert held_out["bytes"] == len(text) - int(0.9 * len(text))
    assert held_out["tokens"] == held_out["bytes"]  # an end more, and the first has no context
    bits = held_out["loss_nats_per_token"] * held_out["tokens"] / math.log(2) / held_out["bytes"]
    assert held_out["bits_per_byte"] == pytest.approx(bits)
    assert "loss" in evaluate.describe(result) and evaluate.evaluate(run)["step"] == 20


def test_a_run_without_such_a_checkpoint_is_refused(make_run):
    run = make_run("run")
    for step in (None, 10):
        with pytest.raises(UserError) as refused:
            evaluate.evaluate(run, step)
        assert refused.value.key == "evaluate.no_checkpoint"
    assert not (run / folder.EVALUATION).exists()


# ---- Samples


def test_a_greedy_continuation_is_the_likeliest_token_each_time():
    model = a_model().eval()
    ids = [END, *b"the "]
    new = evaluate.generate(model, ids, 24, 16, CPU)
    expected = []
    with torch.no_grad():
        for _ in range(24):  # longer than the context: the oldest tokens fall out
            window = torch.tensor([(ids + expected)[-16:]])
            expected.append(int(model(window)[0, -1].argmax()))
    assert new == expected and len(set(new)) > 3
    assert evaluate.generate(model, ids, 24, 16, CPU, stop=new[5]) == new[: new.index(new[5])]


def test_a_drawn_continuation_is_a_function_of_the_seed():
    model = a_model()
    drawn = [evaluate.generate(model, [END], 12, 16, CPU, 1.0, seed) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert model.training


def test_samples_are_continuations_of_the_prompts():
    dataset = dataset_of(*DOCUMENTS)
    chosen = config_of()
    first = evaluate.samples(a_model(), dataset, chosen, CPU, step=100)
    assert [sample["prompt"] for sample in first] == list(chosen.sample.prompts)
    assert first == evaluate.samples(a_model(), dataset, chosen, CPU, step=100)
    assert first != evaluate.samples(a_model(), dataset, chosen, CPU, step=200)

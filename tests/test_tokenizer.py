"""Lossless on any text, exact sizes, and the same ids as other tools read from the file."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models

from x1 import tokenizer
from x1.text import UserError

WORDS = ["the", "night", "is", "ñandú", "über", "don't", "12", "año", "\n", "日本", "😀", "=", "to"]


def sample_text(words: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + draw.choice(["", "s", "ing"]) for _ in range(words))


@pytest.fixture(scope="module")
def bpe() -> tokenizer.Tokenizer:
    return tokenizer.train_bpe([sample_text(3000)], 300)


@pytest.fixture(scope="module")
def plain() -> tokenizer.Tokenizer:
    return tokenizer.byte_tokenizer()


@settings(deadline=None)
@given(text=st.text() | st.text(alphabet=" \n\t'sñe<|>\u3000\x00😀endoftx"))
def test_every_text_comes_back(bpe, plain, text):
    for trained in (bpe, plain):
        ids = trained.encode(text)
        assert trained.decode(ids) == text
        assert b"".join(map(trained.token_bytes, ids)) == text.encode("utf-8")
        assert trained.end_of_document not in ids
        assert ids == trained.backend.encode(text, add_special_tokens=False).ids


def test_the_end_of_document_mark_in_a_text_is_only_text(bpe, plain):
    for trained in (bpe, plain):
        ids = trained.encode(f"a{tokenizer.END_OF_DOCUMENT}b")
        assert trained.end_of_document not in ids
        assert trained.decode([trained.end_of_document]) == tokenizer.END_OF_DOCUMENT
        assert trained.token_bytes(trained.end_of_document) == b""


def test_byte_ids_are_byte_values(plain):
    text = "ñ😀\r\n a"
    assert plain.vocab_size == 257 and plain.end_of_document == 256 and plain.is_bytes
    assert plain.encode(text) == list(text.encode("utf-8"))
    assert [plain.token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]


def test_half_a_character_decodes_to_a_replacement(plain):
    assert plain.decode([0x61, 0xC3]) == "a\ufffd"


def test_bpe_has_exactly_the_size_asked_for_and_compresses(bpe):
    text = sample_text(500, seed=1)
    assert bpe.vocab_size == 300 and not bpe.is_bytes
    assert sorted(bpe.backend.get_vocab().values()) == list(range(300))
    assert len(bpe.encode(text)) < 0.7 * len(text.encode("utf-8"))


def test_training_is_deterministic_and_independent_of_how_the_text_is_handed_over():
    text = sample_text(3000)
    cut = text.index(" the")
    first = tokenizer.train_bpe([text], 300).to_json()
    assert tokenizer.train_bpe(iter([text[:cut], text[cut:]]), 300).to_json() == first


@pytest.mark.parametrize("kind", ["bpe", "plain"])
def test_the_file_means_the_same_to_this_package_and_to_transformers(kind, request, tmp_path):
    import transformers

    trained = request.getfixturevalue(kind)
    path = tmp_path / "tokenizer.json"
    path.write_text(trained.to_json(), "utf-8")
    loaded = tokenizer.load(path)
    other = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    text = sample_text(200, seed=2) + "\t ñ😀"
    assert loaded.encode(text) == trained.encode(text) == other.encode(text)
    assert loaded.is_bytes == trained.is_bytes
    assert other.decode(trained.encode(text), clean_up_tokenization_spaces=False) == text
    assert other.convert_tokens_to_ids(tokenizer.END_OF_DOCUMENT) == trained.end_of_document


def test_too_little_text_says_how_many_ids_it_gives():
    with pytest.raises(UserError) as caught:
        tokenizer.train_bpe(["abababab"], 1000)
    assert caught.value.key == "tokenizer.too_little_text"
    assert 257 <= caught.value.values["reached"] < 300
    # and that many it does give
    reached = caught.value.values["reached"]
    assert tokenizer.train_bpe(["abababab"], reached).vocab_size == reached
    with pytest.raises(UserError) as caught:
        tokenizer.train_bpe(["abcdefgh"], 1000)
    assert caught.value.values["reached"] == 257  # what occurs once is not worth a token


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: tokenizer.train_bpe(["text"], 256), "tokenizer.vocab_too_small"),
        (lambda: tokenizer.byte_tokenizer(1024), "tokenizer.bytes_vocab"),
    ],
)
def test_impossible_sizes_are_refused(make, key):
    with pytest.raises(UserError) as caught:
        make()
    assert caught.value.key == key


def test_a_file_that_is_not_ours_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    cases = {
        "folder.missing": None,
        "tokenizer.damaged": '{"model": ',
        "tokenizer.not_ours": HuggingFaceTokenizer(models.WordLevel({"a": 0}, "a")).to_str(),
    }
    for key, content in cases.items():
        if content is not None:
            path.write_text(content, "utf-8")
        with pytest.raises(UserError) as caught:
            tokenizer.load(path)
        assert caught.value.key == key

"""Text to token ids and back without loss: byte-level BPE, or plain bytes.

Both are one `tokenizer.json` of Hugging Face `tokenizers`, with GPT-2's pre-tokenizer, so that
every tool that reads such a file reads ours. The file is data: loading a stranger's runs nothing.
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from x1.text import UserError

END_OF_DOCUMENT = "<|endoftext|>"
BYTE_IDS = 256


def byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte value, by byte value.

    Printable Latin-1 bytes stand for themselves; the other 68 are moved up, in order, to
    U+0100 and beyond (Radford et al. 2019, `bytes_to_unicode` in the published code).
    """
    plain = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = (chr(0x100 + k) for k in range(BYTE_IDS - len(plain)))
    return [chr(value) if value in plain else next(moved) for value in range(BYTE_IDS)]


BYTE_OF = {character: value for value, character in enumerate(byte_alphabet())}


class Tokenizer:
    """A trained tokenizer. `<|endoftext|>` typed in a text is ordinary text, never the token."""

    def __init__(self, backend: HuggingFaceTokenizer) -> None:
        backend.encode_special_tokens = True
        self.backend = backend
        self.vocab_size: int = backend.get_vocab_size()
        end = backend.token_to_id(END_OF_DOCUMENT)
        self.end_of_document: int = -1 if end is None else end

    @cached_property
    def _bytes(self) -> list[bytes]:
        table = [b""] * self.vocab_size
        for token, number in self.backend.get_vocab().items():
            if number != self.end_of_document:
                table[number] = bytes(BYTE_OF[character] for character in token)
        return table

    @cached_property
    def is_bytes(self) -> bool:
        """Whether every id below 256 is the byte of that value, and there is no other text."""
        return self._bytes == [*(bytes([value]) for value in range(BYTE_IDS)), b""]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no end-of-document token added."""
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text, uint32, on all cores."""
        if self.is_bytes:
            return [np.frombuffer(t.encode("utf-8"), np.uint8).astype(np.uint32) for t in texts]
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8, as samples may hold, become U+FFFD.

        The end-of-document token is written out as `<|endoftext|>`.
        """
        mark = END_OF_DOCUMENT.encode("ascii")
        parts = (mark if i == self.end_of_document else self._bytes[i] for i in ids)
        return b"".join(parts).decode("utf-8", errors="replace")

    def token_bytes(self, number: int) -> bytes:
        """The bytes of text one id stands for; none for the end-of-document token."""
        return self._bytes[number]

    def to_json(self) -> str:
        """The content of tokenizer.json."""
        return str(self.backend.to_str(pretty=True))


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE of exactly `vocab_size` ids: end of document, 256 bytes, then merges.

    A merge must occur twice, or the text would be memorised rather than compressed. Sennrich et
    al. 2016 (arXiv 1508.07909, section 3.2), over bytes as in Radford et al. 2019 (section 2.2).
    Raises UserError when the text has too few merges for `vocab_size`, saying how many it has.
    """
    if vocab_size <= BYTE_IDS:
        raise UserError("tokenizer.vocab_too_small", vocab_size=vocab_size, least=BYTE_IDS + 1)
    backend = HuggingFaceTokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=byte_alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    reached = backend.get_vocab_size()
    if reached < vocab_size:
        raise UserError("tokenizer.too_little_text", vocab_size=vocab_size, reached=reached)
    return Tokenizer(backend)


def byte_tokenizer(vocab_size: int = BYTE_IDS + 1) -> Tokenizer:
    """Plain bytes: id = byte value, and 256 = end of document.

    To other tools it is a BPE without merges. Raises UserError when the model's vocabulary is
    not 257.
    """
    if vocab_size != BYTE_IDS + 1:
        raise UserError("tokenizer.bytes_vocab", vocab_size=vocab_size, exactly=BYTE_IDS + 1)
    backend = HuggingFaceTokenizer(models.BPE(vocab=dict(BYTE_OF), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_OF_DOCUMENT, special=True, normalized=False)])
    return Tokenizer(backend)


def load(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json written here.

    Raises UserError when the file is missing, damaged, or not a byte-level BPE with this
    end-of-document token: another kind might not give every text back.
    """
    if not path.is_file():
        raise UserError("folder.missing", path=path)
    try:
        tokenizer = Tokenizer(HuggingFaceTokenizer.from_file(str(path)))
        covered = set(tokenizer._bytes) >= {bytes([value]) for value in range(BYTE_IDS)}
    except Exception as fault:  # the library raises bare Exception on a damaged file
        raise UserError("tokenizer.damaged", path=path, fault=str(fault)[:200]) from None
    if not covered or tokenizer.end_of_document < 0:
        raise UserError("tokenizer.not_ours", path=path, token=END_OF_DOCUMENT)
    return tokenizer

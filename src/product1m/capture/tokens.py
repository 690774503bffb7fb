"""Titles as WordPiece tokens: a vocabulary trained on the captions, or that of a BERT."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from product1m.artifacts.folder import Artifact
from product1m.capture.text_model import EXPECTED, fetched_text_model
from product1m.errors import ArtifactError, ConfigError, Product1MError

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FOLDER = "tokenizer"
FILE = f"{FOLDER}/tokenizer.json"
MAX_ALPHABET_SHARE = 0.75
"""Single characters take at most this share of a vocabulary trained from scratch (ours)."""

CAPTIONS_AT_ONCE = 10_000
"""Captions that are encoded at once where all are read (ours)."""


class TitleTokenizer:
    """Captions to token numbers, `[CLS] w1 … wn [SEP]`."""

    def __init__(self, backend: Tokenizer) -> None:
        vocabulary: dict[str, int] = backend.get_vocab()
        missing = [token for token in SPECIAL if token not in vocabulary]
        if missing:
            raise ConfigError(
                f"the vocabulary of {backend.get_vocab_size()} tokens lacks {', '.join(missing)}; "
                "expected that of a BERT"
            )
        self._backend = backend
        self._backend.no_padding()
        self._backend.no_truncation()
        self.pad, self.unknown, self.cls, self.sep, self.mask = (
            vocabulary[token] for token in SPECIAL
        )
        special = {self.pad, self.unknown, self.cls, self.sep, self.mask}
        reserved = {number for token, number in vocabulary.items() if token.startswith("[unused")}
        self.ordinary: Int32[np.ndarray, " V"] = np.array(
            sorted(set(vocabulary.values()) - special - reserved), np.int32
        )
        """Ids of the tokens that a title may contain."""

    @property
    def vocabulary_size(self) -> int:
        """V: one more than the largest token number."""
        return max(int(number) for number in self._backend.get_vocab().values()) + 1

    def encode(self, captions: Sequence[str], max_tokens: int) -> list[Int32[np.ndarray, " T"]]:
        """Token numbers of each caption, cut to `max_tokens` including [CLS] and [SEP]."""
        encoded = self._backend.encode_batch_fast(list(captions), add_special_tokens=False)
        return [
            np.array([self.cls, *encoding.ids[: max_tokens - 2], self.sep], np.int32)
            for encoding in encoded
        ]

    def unknown_share(self, captions: Iterable[str]) -> float:
        """Share of the captions' tokens that stand for words outside the vocabulary."""
        unknown = total = 0
        rest = iter(captions)
        while some := list(islice(rest, CAPTIONS_AT_ONCE)):
            for encoding in self._backend.encode_batch_fast(some, add_special_tokens=False):
                unknown += encoding.ids.count(self.unknown)
                total += len(encoding.ids)
        return unknown / max(1, total)

    def tokens(self, numbers: Iterable[int]) -> list[str]:
        """The tokens with these numbers."""
        return [str(self._backend.id_to_token(int(number))) for number in numbers]

    def save(self, folder: Path) -> None:
        """Write `tokenizer/` into an artifact's folder."""
        (folder / FOLDER).mkdir()
        self._backend.save(str(folder / FILE))

    @classmethod
    def load(cls, artifact: Artifact) -> "TitleTokenizer":
        """Read what `save` wrote; ArtifactError if it cannot be read."""
        path = artifact.file(FILE)
        try:
            return cls(Tokenizer.from_str(path.read_text("utf-8")))
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise ArtifactError(f"{path}: not a tokenizer ({error})") from error


def train_tokenizer(captions: Iterable[str], vocabulary_size: int) -> TitleTokenizer:
    """A WordPiece vocabulary of at most `vocabulary_size` tokens; equal captions give equal ones.

    Text is lower-cased, accents are removed, and every Chinese character is a word, as in BERT
    (paper). `captions` are read twice.
    """
    alphabet, inner = _alphabet(
        captions, int((vocabulary_size - len(SPECIAL)) * MAX_ALPHABET_SHARE)
    )
    backend = _backend(WordPiece(unk_token=UNKNOWN))
    # The trainer numbers inner characters in the order of a hash map, and breaks ties by number.
    # If they are named beforehand, their numbers are fixed, and so is all that is merged from them.
    trainer = WordPieceTrainer(
        vocab_size=vocabulary_size,
        show_progress=False,
        special_tokens=[*SPECIAL, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    backend.train_from_iterator(captions, trainer)
    vocabulary: dict[str, int] = backend.get_vocab()
    return TitleTokenizer(_backend(WordPiece(vocabulary, unk_token=UNKNOWN)))


def bert_tokenizer(text_model: str) -> TitleTokenizer:
    """The tokenizer of a BERT folder, s3 prefix or hub name; ConfigError if there is none."""
    from transformers import AutoTokenizer

    try:
        with fetched_text_model(text_model) as local:
            pretrained = AutoTokenizer.from_pretrained(local, use_fast=True)
        tokenizer = TitleTokenizer(pretrained.backend_tokenizer)
        tokenizer.encode(["?"], 8)  # with a damaged vocabulary the first text fails
    except Product1MError:
        raise
    except Exception as error:  # the libraries raise whatever the files make them raise
        raise ConfigError(
            f"capture_pretraining.text_model: no tokenizer at {text_model!r} ({error}); {EXPECTED}"
        ) from error
    return tokenizer


def _backend(model: WordPiece) -> Tokenizer:
    backend = Tokenizer(model)
    backend.normalizer = BertNormalizer()
    backend.pre_tokenizer = BertPreTokenizer()
    return backend


def _alphabet(captions: Iterable[str], limit: int) -> tuple[list[str], list[str]]:
    """The `limit` most common characters of captions, and `##c` for those that occur in words."""
    backend = _backend(WordPiece(unk_token=UNKNOWN))
    everywhere: Counter[str] = Counter()
    inside: set[str] = set()
    for caption in captions:
        text = backend.normalizer.normalize_str(caption)
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(text):
            everywhere.update(word)
            inside.update(word[1:])
    alphabet = sorted(everywhere, key=lambda char: (-everywhere[char], char))[:limit]
    return sorted(alphabet), [f"##{char}" for char in sorted(inside & set(alphabet))]

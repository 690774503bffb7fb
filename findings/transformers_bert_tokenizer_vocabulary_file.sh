#!/usr/bin/env bash
# transformers: BertTokenizer accepts `vocab_file` and ignores it.
#
# Seen with transformers 5.23.0: `BertTokenizer(vocab_file=...)` raises nothing and warns of nothing,
# but its vocabulary is not the file's: every word comes out as [UNK]. `vocab={...}` and
# `from_pretrained(folder)` read the same words right.
# Lesson: after loading a tokenizer, check that a known word is not the unknown token.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import tempfile
from pathlib import Path

from transformers import BertTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "tea"]
folder = Path(tempfile.mkdtemp())
(folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
by_file = BertTokenizer(vocab_file=str(folder / "vocab.txt")).tokenize("red tea")
by_words = BertTokenizer(vocab={word: k for k, word in enumerate(WORDS)}).tokenize("red tea")
print("vocab_file:", by_file, "; vocab:", by_words)
assert by_words == ["red", "tea"], by_words
assert by_file == ["[UNK]", "[UNK]"], by_file
PYTHON

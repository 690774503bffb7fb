import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.capture.tokens import SPECIAL, TitleTokenizer, bert_tokenizer, train_tokenizer
from product1m.config import CapturePretrainingConfig
from product1m.errors import ArtifactError, ConfigError
from tests.support.paths import ROOT

CAPTIONS = [
    "雅诗兰黛 DW持妆粉底液 30ml 油皮",
    "兰蔻小黑瓶精华肌底液 50ml",
    "Moisturizing cream for dry skin",
    "Moisturizer, creamy & rich",
] * 3


def test_every_chinese_character_is_a_word_and_latin_is_split_into_known_pieces() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 120)
    numbers = tokenizer.encode(["兰蔻 Cream"], 36)[0]
    assert tokenizer.tokens(numbers)[:3] == ["[CLS]", "兰", "蔻"]
    rebuilt = "".join(tokenizer.tokens(numbers)[3:-1]).replace("##", "")
    assert rebuilt == "cream"


def test_the_vocabulary_holds_the_captions_characters_and_no_more_tokens_than_asked() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 90)
    assert tokenizer.vocabulary_size <= 90
    for numbers in tokenizer.encode(CAPTIONS, 36):
        assert tokenizer.unknown not in numbers


def test_the_commonest_characters_win_where_the_vocabulary_is_too_small() -> None:
    tokenizer = train_tokenizer(["甲乙", "甲丙", "甲乙丁", "戊"], 9)
    known = tokenizer.tokens(tokenizer.encode(["甲乙丙丁戊"], 36)[0])
    assert known[1:3] == ["甲", "乙"]
    assert "[UNK]" in known


def test_training_twice_gives_one_vocabulary_even_in_another_process(tmp_path: Path) -> None:
    script = (
        "from tests.capture.test_tokens import CAPTIONS;"
        "from product1m.capture.tokens import train_tokenizer;"
        "t = train_tokenizer(CAPTIONS, 100); print(t.tokens(range(t.vocabulary_size)))"
    )
    run = [sys.executable, "-c", script]
    outputs = {
        subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    tokenizer = train_tokenizer(CAPTIONS, 100)
    outputs.add(f"{tokenizer.tokens(range(tokenizer.vocabulary_size))}\n")
    assert len(outputs) == 1


def test_a_long_title_is_cut_so_that_both_ends_stay() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 120)
    numbers = tokenizer.encode(["雅诗兰黛" * 30, ""], 36)
    assert len(numbers[0]) == 36
    assert tokenizer.tokens(numbers[0][[0, -1]]) == ["[CLS]", "[SEP]"]
    assert tokenizer.tokens(numbers[1]) == ["[CLS]", "[SEP]"]


def test_a_saved_tokenizer_is_all_that_serving_needs(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(CAPTIONS, 120)
    config = CapturePretrainingConfig()
    with write_artifact(tmp_path / "checkpoint", "capture_pretraining", config) as writer:
        tokenizer.save(writer.folder)
    artifact = open_artifact(tmp_path / "checkpoint", "capture_pretraining")
    loaded = TitleTokenizer.load(artifact)
    for mine, theirs in zip(
        tokenizer.encode(CAPTIONS, 36), loaded.encode(CAPTIONS, 36), strict=True
    ):
        assert mine.tolist() == theirs.tolist()


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    config = CapturePretrainingConfig()
    with write_artifact(tmp_path / "checkpoint", "capture_pretraining", config) as writer:
        (writer.folder / "tokenizer").mkdir()
        (writer.folder / "tokenizer/tokenizer.json").write_text("{}")
    artifact = open_artifact(tmp_path / "checkpoint", "capture_pretraining")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: not a tokenizer"):
        TitleTokenizer.load(artifact)


def test_a_vocabulary_without_mask_is_refused() -> None:
    backend = Tokenizer(WordPiece({"[UNK]": 0, "[PAD]": 1, "a": 2}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match=r"lacks \[CLS\], \[SEP\], \[MASK\]"):
        TitleTokenizer(backend)


def test_a_folder_without_a_bert_has_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)text_model: no BERT at .*expected `scratch`"):
        bert_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", b""),
        ("vocab.txt", b"[PAD]\n[UNK]\nM\xfcller"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"[" * 100_000),
    ],
)
def test_a_berts_damaged_vocabulary_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL))
    bert_tokenizer(str(tmp_path))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"(?s)text_model: no tokenizer at .*expected `scratch`"):
        bert_tokenizer(str(tmp_path))

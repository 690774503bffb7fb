"""Errors that users can fix; each message says where, what was expected and what to do.

Messages reach logs, MLflow, run records and quarantine tables, so they contain no passwords.
"""

import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote, unquote

HIDDEN = "***"
"""Replaces a secret in messages (ours)."""
_WORD = r"[\w.%\[\]~-]*"
_TELLING = "sig|token|secret|passw|pwd|credential|access[_-]?key|api[_-]?key|auth|session|jwt|hmac"
_PARAMETER = re.compile(rf"([?&;#]{_WORD}(?:{_TELLING}){_WORD}=)[^&;#\s'\"<>)]*", re.IGNORECASE)
_KEY_PARAMETER = re.compile(r"([?&;#](?:k|key|s|pass)=)[^&;#\s'\"<>)]*", re.IGNORECASE)
_USER = re.compile(r"(?:(?<=://)|(?<=:\\/\\/))[^\s/?#'\"<>]*@")
_PASSWORD = re.compile(r"(?<=://)[^\s/?#'\"<>:@\[]*:(?!\d+[/?#])([^\s'\"<>]*)@")
"""A user with a password, also one with `/`, `?` or `#`, which should have been quoted."""
_WITH_SPACES = re.compile(r"[\w+.-]+://[^\s/?#:@\[]*:(?!\d+[/?#])([^\n]* [^\n]*)@[^@\s]+")
"""A variable that is nothing but such an address, whose password holds spaces."""
_QUOTED_USER = re.compile(
    r"(?<=%3A%2F%2F)(?:[^\s/?#&'\"<>%]|%(?!2F|3F|23|26|40))*%40", re.IGNORECASE
)
"""User and password of an address that is a parameter of another one."""
_HEADER = re.compile(r"(\b(?:Basic|Bearer) )[\w.~+/=-]{6,}")
_SECRET_VARIABLE = re.compile(r"(PASSWORD|SECRET|SECRET_KEY|SECRET_ACCESS_KEY|TOKEN)$")
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of characters that are invisible, or change the characters around them."""
_SHORTEST = 6
"""Shorter secrets of the environment are not searched for: ordinary words contain them (ours)."""


def redacted(text: str) -> str:
    """`text` without secrets: passwords and signatures in addresses, and those of the environment.

    User and password of an address become `***`, and so does the value of a query parameter whose
    name sounds like a secret. Values of variables such as `AWS_SECRET_ACCESS_KEY`, and the
    passwords in addresses such as `MLFLOW_TRACKING_URI`, are hidden wherever they occur.
    """
    for secret in _environment_secrets():
        text = text.replace(secret, HIDDEN)
    text = _QUOTED_USER.sub(f"{HIDDEN}%40", text)
    for pattern in (_USER, _PASSWORD):
        text = pattern.sub(f"{HIDDEN}@", text)
    for pattern in (_PARAMETER, _KEY_PARAMETER, _HEADER):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def printable(text: str, kept: str = "\n\t") -> str:
    """`text` with escapes for characters that move the cursor, color or reorder what follows.

    Titles, ids and tags come from others, who must not be able to fake the output of a command.
    """
    return "".join(
        character
        if character in kept or unicodedata.category(character) not in _UNSEEN
        else character.encode("unicode_escape").decode()
        for character in text
    )


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: `1 item`, `2 items`; `plural` for nouns that do not end in s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def _environment_secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        secrets = [value] if _SECRET_VARIABLE.search(name) else []
        if "://" in value:
            secrets += _PASSWORD.findall(value)
            if whole := _WITH_SPACES.fullmatch(value):
                secrets.append(whole[1])
        if name.endswith("WEBHOOK"):
            secrets.append(value.partition("://")[2].partition("/")[2])  # whoever has it may post
        for secret in secrets:
            for form in {secret, unquote(secret), quote(secret, safe="")}:
                if len(form) >= _SHORTEST:
                    yield form


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on; as a traceback shows them, innermost last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)


class Product1MError(Exception):
    """An error that a user can fix; the command line prints it without a traceback.

    Its message contains no secrets.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


RANK_EXIT_CODE = 65
"""Exit code of a training process that ends with a Product1MError among several: starting the
processes again would end in the same way."""


class ConfigError(Product1MError):
    """An unknown key, a value out of range, a preset that does not exist."""


class DatasetError(Product1MError):
    """Lists or photos that cannot be used, or too many quarantined items."""


class PhotoError(DatasetError):
    """A photo that cannot be read or used; the message is the reason in the quarantine."""


class ArtifactError(Product1MError):
    """An artifact that is missing, unfinished, damaged, or made from other inputs."""


class StorageError(Product1MError):
    """A path or URI that cannot be read or written."""


class LockedError(StorageError):
    """A file or folder that another run is writing."""


class NotStoredError(StorageError):
    """No file at an address; the store was reached."""


class TooLargeError(StorageError):
    """A file that is larger than its reader accepts; it is not read."""

    def __init__(self, address: str, num_bytes: int, max_bytes: int) -> None:
        super().__init__(f"{address} has {num_bytes} bytes, more than {max_bytes}")
        self.num_bytes = num_bytes
        self.max_bytes = max_bytes


class TrainingError(Product1MError):
    """Training that cannot continue, for example with a loss that is not finite."""


class RetrievalError(Product1MError):
    """A query that cannot be answered, or an index that does not fit its model."""


class QueryError(RetrievalError):
    """A photo or title that cannot be searched; the message names its place in the batch."""

    def __init__(self, part: Literal["photo", "title"], position: int, reason: object) -> None:
        super().__init__(f"{part} {position}: {reason}")
        self.part = part
        self.reason = redacted(str(reason))


class CatalogueError(Product1MError):
    """A catalogue that did not pass its checks, or does not belong to the model."""


class RegistryError(Product1MError):
    """The model registry refuses a request, or a version is not valid."""


class TrackingError(Product1MError):
    """MLflow cannot be reached, or refuses a step's report."""


class PipelineError(Product1MError):
    """A pipeline run that cannot start, or a step of it that failed."""

"""Explain why a file system or a database refused, in a sentence with the folder.

Writers hide the reason in different ways: pyarrow and Pillow keep the error number, safetensors and
FAISS put it into their text, torch and NumPy only notice that fewer bytes were written. All of them
are explained here, so that callers need not know which library was writing.
"""

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from product1m.errors import Product1MError, StorageError, causes_of

_NUMBER = re.compile(r"\[errno (\d+)|\(os error (\d+)|code: (\d+), kind:", re.IGNORECASE)
_SHORT_WRITE = -1
_LOCKED = -2
_TEXTS = {
    "no space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
    "readonly database": errno.EACCES,
    "read-only database": errno.EACCES,
    "unable to open database file": errno.EACCES,
    "permission denied": errno.EACCES,
    "database is locked": _LOCKED,
    "disk i/o error": errno.EIO,
    "inline_container.cc": _SHORT_WRITE,  # torch.save
    "file write failed": _SHORT_WRITE,
    " requested and ": _SHORT_WRITE,  # numpy.save: "400 requested and 100 written"
}
_NAMED_PATH = re.compile(r"(?:write error in|could not open|for writing:?) '?(/[^\s:']+)")
_PARTIAL = re.compile(r"/\.[^/]*\.partial(/.*)?$")
_ABOUT_SPACE = (errno.ENOSPC, _SHORT_WRITE)
_WITHOUT_PLACE = (errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE,
    errno.EACCES, _LOCKED)  # fmt: skip
"""Part of the message if the error names no file; the caller's first folder follows."""
_ADVICE = {
    errno.EDQUOT: "your quota of space is used up; remove files or choose another folder",
    errno.EFBIG: "a file became larger than the file system, or the limit of the process, allows; "
    "choose another folder or raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; choose another folder, or mount it for writing",
    errno.ELOOP: "links lead back to themselves; remove the link",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
    errno.EISDIR: "expected a file, got a folder; choose another path",
    errno.EEXIST: "something exists there already; remove it or choose another path",
    errno.ENOTEMPTY: "another program writes there; end it, then run again",
    errno.EBUSY: "in use, for example as a mount point; choose a folder below it",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n), then run again",
    errno.ENFILE: "too many files are open on this machine; end other programs, then run again",
    errno.EIO: "the device cannot read or write; check the disk or the network volume",
    errno.ESTALE: "the network volume was replaced; mount it again",
    _LOCKED: "the database is locked by another program; wait for its end, then run again",
}

_ALSO_EXPLAINED = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.ENOENT)


class DiskError(StorageError):
    """A file system or a database that refuses; the message names the folder."""


@contextmanager
def disk_errors_explained(*folders: Path) -> Iterator[None]:
    """Raise DiskError for errors that come from a file system or database file.

    Args:
        folders: where the block writes, for errors that do not name a file. The temporary folder
            is always one of them.
    """
    try:
        yield
    except Product1MError:
        raise
    except Exception as error:
        explained = explain(error, folders)
        if explained is None:
            raise
        raise explained from error


def reason_of(error: BaseException, *folders: Path) -> str:
    """An error in words for a message in brackets: explained if it comes from a file system."""
    return str(explain(error, folders) or error)


def explain(error: BaseException, folders: Sequence[Path] = ()) -> DiskError | None:
    """The error of a file system or database behind `error`, in words; None if there is none."""
    for cause in causes_of(error):
        if isinstance(cause, DiskError):
            return cause
        if isinstance(cause, RuntimeError) and "home directory" in str(cause):
            return DiskError(
                "~: there is no home folder of that user; write the whole path, or set HOME"
            )
        code, place = _code_of(cause), _place_of(cause)
        if code in _ABOUT_SPACE:
            return DiskError(_about_space(code, place, folders))
        if code is not None and (place or code in _WITHOUT_PLACE):
            return DiskError(_about_place(code, place or next(iter(folders), Path.cwd())))
    return None


def _code_of(error: BaseException) -> int | None:
    """An error number, or one of those above; None if the error is about something else."""
    if isinstance(error, Product1MError | ConnectionError | TimeoutError):
        return None
    number = getattr(error, "errno", None)
    text = str(error)
    if not isinstance(number, int):
        match = _NUMBER.search(text)
        number = int(match[match.lastindex or 0]) if match else None
    if number in _ADVICE or number in _ALSO_EXPLAINED:
        return number
    lower = text[:2000].lower()
    return next((code for words, code in _TEXTS.items() if words in lower), None)


def _place_of(error: BaseException) -> Path | None:
    """The file that the error names; of a copy, the one that is written."""
    for name in (getattr(error, "filename2", None), getattr(error, "filename", None)):
        if isinstance(name, str) and name:
            return Path(name)
    match = _NAMED_PATH.search(str(error))
    return Path(match[1]) if match else None


def _about_place(code: int, place: Path) -> str:
    shown = _shown(place)
    if code == errno.ENOENT:
        if place.is_symlink():
            return f"{shown}: a link to {place.readlink()}, which does not exist; remove the link"
        return f"{shown}: no such file or folder; check the path"
    if code in (errno.EACCES, errno.EPERM):
        return (
            f"{shown}: no permission for user {os.getuid()}; change the owner or the permissions "
            f"of {_shown(_existing(place))}, or choose another folder"
        )
    return f"{shown}: {_ADVICE[code]}"


def _about_space(code: int | None, place: Path | None, folders: Sequence[Path]) -> str:
    # A copy may name its source, and some writers name nothing: the fullest folder is meant.
    candidates = [*([place] if place else []), *folders, Path(tempfile.gettempdir())]
    folder = min(candidates, key=lambda path: _free(path)[0])
    free, total, free_files = _free(folder)
    shown = _shown(_existing(folder))
    if code == errno.ENOSPC and free_files == 0:
        return f"{shown}: the file system can hold no more files; remove some, then run again"
    what = "the disk is full" if code == errno.ENOSPC else "a file could not be written whole"
    return (
        f"{shown}: {what}: {_size(free)} of {_size(total)} free; make space there or choose "
        "another folder, then run again"
    )


def _free(folder: Path) -> tuple[int, int, int]:
    """Free and total bytes, and free files, where `folder` is or will be."""
    try:
        space = os.statvfs(_existing(folder))
    except OSError:
        return 1 << 62, 1 << 62, 1
    files_left = space.f_favail if space.f_files else 1
    return space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize, files_left


def _existing(path: Path) -> Path:
    """The nearest folder that exists."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _shown(path: Path) -> str:
    """The path that the user knows: unfinished files are written under hidden names."""
    return _PARTIAL.sub("", str(path)) or "/"


def _size(num_bytes: int) -> str:
    if num_bytes < 10 << 30:
        return f"{num_bytes / (1 << 20):.1f} MiB"
    return f"{num_bytes / (1 << 30):.1f} GiB"

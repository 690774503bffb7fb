"""Score a `retrieval_id_list.txt` against product lists, like the released evaluator.

By default, small mistakes in the file, such as spaces around ids, only cause a warning; anything
else unexpected is an error with its line. `as_released` reads the file exactly as the released
script does, for numbers that must equal its own.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from product1m.data.lists import (
    FIELD_SEPARATOR,
    ID_SEPARATOR,
    JSON_LINES_LIST,
    LABEL_SEPARATOR,
    PRODUCT1M_LIST,
    ListFile,
    RejectedLine,
    read_list,
)
from product1m.errors import DatasetError, RetrievalError, StorageError
from product1m.evaluation.metrics import (
    DEFINITIONS,
    Definition,
    GroundTruth,
    Rankings,
    mean_scores,
    score_queries,
)
from product1m.storage.disk import reason_of

logger = logging.getLogger(__name__)

RankingLines = list[tuple[str, list[str]]]
"""A query id and its gallery ids, best first, one entry per line."""

_EXAMPLES = 3
_RELEASED_LISTS = PRODUCT1M_LIST.format("{gallery,dev,test}")


@dataclass(frozen=True)
class ScoreReport:
    """The result of `score`."""

    scores: Mapping[Definition, Mapping[str, Mapping[str, float]]]
    """Definition, depth, metric (`mAP`, `mAR`, `Prec`): means over the queries, fractions."""
    counts: Mapping[str, int]
    """Number of rankings, of queries without a ranking, and of ids that are not in the lists."""


def score(
    lists: Path,
    rankings: Path,
    definitions: Sequence[Definition] = DEFINITIONS,
    as_released: bool = False,
    split: str | None = None,
) -> ScoreReport:
    """Score a ranking file against a folder with gallery, dev and test lists.

    If a split has rankings, its queries without one score 0 in `strict` and are not counted in
    `official` (released code). With `split`, rankings of another split's queries are left out.
    Raises DatasetError or RetrievalError for files that cannot be read.
    """
    if as_released and tuple(definitions) != ("official",):
        raise RetrievalError(
            f"--as-released: expected the definition official, got {', '.join(definitions)}; the "
            "released script has no other, choose official or leave out --as-released"
        )
    lines = read_rankings(rankings, as_released)
    truth, splits = _released_truth(lists) if as_released else _truth(lists)
    if split is not None:
        lines, splits = _rankings_of_split(lines, splits, split, rankings)
    unranked = _unranked(lines, splits)
    if unranked:
        logger.warning(
            "%d queries have no ranking (%s): `official` does not count them, `strict` scores 0",
            len(unranked),
            _examples(unranked),
        )
    counts = _counts(lines, truth, unranked)
    _warn_of_misfits(rankings, counts)
    scores = {}
    for definition in definitions:
        scored: Rankings = lines
        if definition == "strict":
            scored = [*lines, *((query, []) for query in unranked)]
        scores[definition] = mean_scores(score_queries(scored, truth, definition))
    return ScoreReport(scores, counts)


def _rankings_of_split(
    lines: RankingLines, splits: Mapping[str, list[str]], split: str, rankings: Path
) -> tuple[RankingLines, dict[str, list[str]]]:
    """The rankings of the split's queries, and the queries of the split."""
    others = {query for name, queries in splits.items() if name != split for query in queries}
    kept = [line for line in lines if line[0] not in others]
    if split not in splits or not {query for query, _ in kept} & {*splits[split]}:
        counts = {name or "without a split": len(queries) for name, queries in splits.items()}
        numbers = ", ".join(f"{number} {name}" for name, number in counts.items())
        raise RetrievalError(
            f"{rankings}: no ranking of a {split} query; queries in the lists: {numbers}. Give the "
            "rankings of that split, or leave out --split"
        )
    if len(kept) < len(lines):
        logger.info("%s: %d rankings of other splits left out", rankings, len(lines) - len(kept))
    return kept, {split: splits[split]}


def read_rankings(path: Path, as_released: bool = False) -> RankingLines:
    """The lines of a `retrieval_id_list.txt`: query id, then gallery ids, joined by commas.

    Spaces around an id and blank lines are dropped with a warning; a repeated query or an empty id
    raises RetrievalError. With `as_released` nothing is dropped or refused: a space belongs to its
    id, and a blank line is a query without a name (released code).
    """
    try:
        with path.open(encoding="utf-8" if as_released else "utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{path}: cannot be read as UTF-8 text ({reason_of(error)}); expected one line per "
            "query: query id, then gallery ids, joined by commas"
        ) from error
    if not any(lines):
        raise RetrievalError(f"{path}: no rankings; expected one line per query")
    if as_released:
        return [(query, ids) for query, *ids in (line.split(ID_SEPARATOR) for line in lines)]
    return list(_forgiving(lines, path))


def write_rankings(path: Path, rankings: Mapping[str, Sequence[str]]) -> None:
    """Write a `retrieval_id_list.txt`, without spaces, that the released evaluator can read.

    Raises RetrievalError for an id that would not be read back unchanged.
    """
    for query, ids in rankings.items():
        for name in (query, *ids):
            if not name or name != name.strip() or ID_SEPARATOR in name or not name.isprintable():
                raise RetrievalError(
                    f"{path}: id {name!r} of query {query!r} cannot be written to a ranking file; "
                    "an id has no comma, no white space around it and no control characters"
                )
    text = "".join(ID_SEPARATOR.join((query, *ids)) + "\n" for query, ids in rankings.items())
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")


def _forgiving(lines: Sequence[str], path: Path) -> Iterator[tuple[str, list[str]]]:
    first_line: dict[str, int] = {}
    num_blank_lines = num_padded = 0
    for number, line in enumerate(lines, start=1):
        if not line:
            num_blank_lines += 1
            continue
        names = line.split(ID_SEPARATOR)
        query, *ids = (name.strip() for name in names)
        num_padded += [query, *ids] != names
        if not query or not all(ids):
            raise RetrievalError(
                f"{path}:{number}: an id is empty (two commas in a row, or one at the end); "
                "expected query id, then gallery ids, joined by commas"
            )
        if query in first_line:
            raise RetrievalError(
                f"{path}:{number}: query {query} has a ranking in line {first_line[query]} already"
            )
        first_line[query] = number
        yield query, ids
    if num_padded:
        logger.warning(
            "%s: %d lines have spaces around ids, ignored here; the released script takes them as "
            "part of the id and scores 0",
            path,
            num_padded,
        )
    if num_blank_lines:
        logger.warning(
            "%s: %d blank lines ignored; the released script counts each as a query that scores 0",
            path,
            num_blank_lines,
        )


def _truth(folder: Path) -> tuple[GroundTruth, dict[str, list[str]]]:
    """Labels from a folder with lists in either format, and the queries of each split."""
    gallery = [ListFile(folder / JSON_LINES_LIST.format("gallery"), "gallery")]
    queries = [ListFile(folder / JSON_LINES_LIST.format("queries"), "queries")]
    if not gallery[0].path.is_file():
        gallery = [ListFile(_product1m(folder, "gallery"), "gallery")]
        queries = [ListFile(_product1m(folder, name), "queries", name) for name in ("dev", "test")]
        queries = [source for source in queries if source.path.is_file()] or queries
    query_labels, splits = _labels(queries)
    gallery_labels, _ = _labels(gallery)
    return (
        GroundTruth(query_labels, {item: labels[0] for item, labels in gallery_labels.items()}),
        splits,
    )


def _labels(
    sources: Sequence[ListFile],
) -> tuple[dict[str, tuple[str, ...]], dict[str, list[str]]]:
    labels: dict[str, tuple[str, ...]] = {}
    splits: dict[str, list[str]] = {}
    for source in sources:
        if not source.path.is_file():
            raise DatasetError(
                f"{source.path}: missing; expected {_RELEASED_LISTS}, "
                "or gallery.jsonl and queries.jsonl"
            )
        for item in read_list(source):
            if isinstance(item, RejectedLine):
                raise DatasetError(f"{item}; scoring needs complete labels")
            if item.id in labels:
                raise DatasetError(
                    f"{source.path}:{item.line}: id {item.id} appears twice in the lists"
                )
            labels[item.id] = item.labels
            splits.setdefault(item.split, []).append(item.id)
    return labels, splits


def _released_truth(folder: Path) -> tuple[GroundTruth, dict[str, list[str]]]:
    """All three lists, read as the released script does: if an id is repeated, the last counts."""
    gallery = _released_list(_product1m(folder, "gallery"))
    test, dev = (_released_list(_product1m(folder, name)) for name in ("test", "dev"))
    truth = GroundTruth(test | dev, {item: labels[0] for item, labels in gallery.items()})
    return truth, {"test": list(test), "dev": list(dev)}


def _product1m(folder: Path, name: str) -> Path:
    return folder / PRODUCT1M_LIST.format(name)


def _released_list(path: Path) -> dict[str, tuple[str, ...]]:
    labels: dict[str, tuple[str, ...]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                fields = line.strip().split(FIELD_SEPARATOR)
                if len(fields) < 5:
                    raise DatasetError(
                        f"{path}:{number}: expected 5 fields separated by '{FIELD_SEPARATOR}', "
                        f"got {len(fields)}; the released script stops here"
                    )
                labels[fields[0]] = tuple(fields[4].split(LABEL_SEPARATOR))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({reason_of(error)}); the released script needs "
            f"{_RELEASED_LISTS}"
        ) from error
    return labels


def _unranked(lines: RankingLines, splits: Mapping[str, Sequence[str]]) -> list[str]:
    """Queries without a ranking, in the splits that have rankings."""
    ranked = {query for query, _ in lines}
    return [
        query
        for queries in splits.values()
        if not ranked.isdisjoint(queries)
        for query in queries
        if query not in ranked
    ]


def _counts(lines: RankingLines, truth: GroundTruth, unranked: Sequence[str]) -> dict[str, int]:
    lacking = set(truth.missing_labels)
    asked = [truth.query_labels.get(query, ()) for query, _ in lines]
    known = truth.gallery_label
    return {
        "rankings": len(lines),
        "gallery_items": len(known),
        "queries_without_ranking": len(unranked),
        "rankings_of_unknown_queries": sum(query not in truth.query_labels for query, _ in lines),
        "queries_asking_for_labels_missing_from_gallery": sum(
            not lacking.isdisjoint(labels) for labels in asked
        ),
        "labels_missing_from_gallery": len(lacking),
        "unknown_gallery_ids": sum(item not in known for _, ids in lines for item in ids),
        "repeated_gallery_ids": sum(
            count - 1 for _, ids in lines for count in Counter(ids).values()
        ),
    }


def _warn_of_misfits(path: Path, counts: Mapping[str, int]) -> None:
    """Warn about unexpected ids; if there are many, the file probably belongs to other lists."""
    unknown_queries = counts["rankings_of_unknown_queries"]
    unknown_items, repeated = counts["unknown_gallery_ids"], counts["repeated_gallery_ids"]
    if unknown_queries or unknown_items or repeated:
        logger.warning(
            "%s: %d of %d rankings are of queries that are not in the lists; %d ids are not in the "
            "gallery, %d repeat an id of their ranking (a miss in `strict`, counted again in "
            "`official`)",
            path,
            unknown_queries,
            counts["rankings"],
            unknown_items,
            repeated,
        )


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", …" if len(names) > _EXAMPLES else "")

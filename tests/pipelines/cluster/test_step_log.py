"""A step's own lines and its whole error."""

from pipelines.cluster.step_log import error_in, in_words, step_lines

JSON = '{"time": "2026-11-23T03:02:00.000+00:00", "level": "ERROR", "message": "a\\nb"}'
TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "x.py", line 1, in <module>',
    "product1m.errors.DatasetError: train.txt:3: expected 5 fields",
    "the file is probably cut short",
]


def test_the_launchers_lines_and_blocks_are_left_out() -> None:
    log = [
        "I1127 02:04:35.1       7 launcher_v2.go:1] ExecutorInput: {",
        '  "inputs": {',
        "  }",
        "}",
        "[KFP Executor 2026-11-27 02:04:36,001 INFO]: Got executor_input:",
        "{",
        '    "inputs": {}',
        "}",
        "[KFP Executor 2026-11-27 02:04:37,001 INFO]: reading photos",
        "epoch 1: {not json",
        "}",
        "I1127 02:05:29.5       7 launcher_v2.go:9] publish success.",
        'time="2026-11-27T02:05:30Z" level=info msg="sub-process exited"',
        "Error: exit status 1",
    ]
    assert step_lines("\n".join(log)) == [log[8], log[9], log[10]]


def test_an_error_is_whole_and_the_last_one() -> None:
    assert error_in(["{not json", JSON.replace("a", "first"), JSON, "later"]) == "a\nb"
    assert error_in([*TRACEBACK, JSON]) == "a\nb"
    expected = "DatasetError: train.txt:3: expected 5 fields\nthe file is probably cut short"
    assert error_in(TRACEBACK) == expected
    assert error_in(["all is well", "ValueError: not after a traceback"]) == ""


def test_a_json_line_is_shown_with_its_time_and_level() -> None:
    assert in_words(JSON) == "03:02:00 ERROR a\nb"
    assert in_words(JSON.replace("ERROR", "INFO")) == "03:02:00 a\nb"
    assert in_words("epoch 3") == "epoch 3"

"""A refresh of the catalogue on this machine."""

from pathlib import Path

import pytest

from pipelines.local.catalogue_run import trusted_files


def test_a_step_sees_the_keys_that_its_caller_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PRODUCT1M_TRUSTED_KEY", "PRODUCT1M_TRUSTED_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert trusted_files() == {}
    own = tmp_path / "product1m" / "reviewer.pub"
    own.parent.mkdir()
    own.touch()
    assert trusted_files() == {"PRODUCT1M_TRUSTED_KEY": [own]}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRODUCT1M_TRUSTED_KEY", "a.pub:b.pub")
    assert trusted_files() == {"PRODUCT1M_TRUSTED_KEY": [tmp_path / "a.pub", tmp_path / "b.pub"]}

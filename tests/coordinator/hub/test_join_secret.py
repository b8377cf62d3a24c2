"""The join secret: made once, kept private, and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.coordinator.hub.join_secret import JOIN_SECRET_FILE, load_or_create_join_secret
from folkmoot.trust.secret_files import SecretFileError


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    secret = load_or_create_join_secret(tmp_path / "state")
    assert len(secret) == 16
    assert load_or_create_join_secret(tmp_path / "state") == secret
    assert (tmp_path / "state" / JOIN_SECRET_FILE).stat().st_mode & 0o777 == 0o600
    assert load_or_create_join_secret(tmp_path / "other") != secret


@pytest.mark.parametrize("content", [b"", b"zz" * 16, b"00" * 15, b"\xff\xfe"])
def test_a_damaged_one_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / JOIN_SECRET_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SecretFileError) as caught:
        load_or_create_join_secret(tmp_path)
    assert "delete it" in caught.value.advice


def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_create_join_secret(tmp_path)
    (tmp_path / JOIN_SECRET_FILE).chmod(0o644)
    with pytest.raises(SecretFileError):
        load_or_create_join_secret(tmp_path)

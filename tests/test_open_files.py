"""Daemons may open as many files as their system allows at most, and ask for no more."""

from __future__ import annotations

import resource

import pytest

from folkmoot import open_files


def test_files_may_be_as_many_as_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096), (1024, resource.RLIM_INFINITY), (1 << 19, 1 << 20)]
    asked: list[tuple[int, int]] = []
    for limit in limits:
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: limit)
        monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: asked.append(pair))
        open_files.allow_many_files()
    assert asked == [(4096, 4096), (open_files.MANY_FILES, resource.RLIM_INFINITY)]

"""The measure of signing: every way that is compared checks real signatures, and the report has a row for each number of results."""

from __future__ import annotations

import pytest

from folkmoot.bench import signing
from folkmoot.trust.keys import BadSignatureError, Identity

WAYS = (signing.signed_each, signing.signed_by_layers, signing.signed_by_root)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_checks_what_it_signs(way: object) -> None:
    signer, other = Identity(b"s" * 32), Identity(b"o" * 32)
    results = signing.statements(3, 1)
    assert len(set(results)) == 3
    assert callable(way)
    way(signer, signer.verifying_key, results)
    with pytest.raises(BadSignatureError):
        way(signer, other.verifying_key, results)


def test_the_report_has_a_row_for_each_number(capsys: pytest.CaptureFixture[str]) -> None:
    report = signing.measure(quick=True)
    assert [row["results"] for row in report] == list(signing.RESULTS)
    assert all(value > 0 for row in report for value in row.values())
    signing.show(report)
    assert len(capsys.readouterr().out.splitlines()) == len(report) + 3

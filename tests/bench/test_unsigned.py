"""A process without signatures leaves out those of results and nothing else, and no other process is touched."""

from __future__ import annotations

import subprocess
import sys

from folkmoot.bench import trust_cost, unsigned
from folkmoot.trust.keys import Identity
from folkmoot.trust.statements import ResultStatement, tensor_digest

SCRIPT = """
from folkmoot.bench import unsigned
unsigned.leave_out()
from folkmoot.trust.keys import Identity, SignatureError
from folkmoot.trust.statements import ResultStatement, tensor_digest
identity = Identity.generate()
result = ResultStatement(bytes(32), bytes(32), 0).encode()
identity.verifying_key.verify(identity.sign(result), result)
identity.verifying_key.verify(bytes(64), result)
assert tensor_digest(1, (1,), b"a") == tensor_digest(1, (1,), b"b")
try:
    identity.verifying_key.verify(bytes(64), b"a ticket")
except SignatureError:
    print("checked")
"""


def test_only_results_go_unsigned() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "checked\n"


def test_this_process_signs() -> None:
    identity, result = Identity.generate(), ResultStatement(bytes(32), bytes(32), 0).encode()
    assert identity.sign(result) != bytes(64)
    assert tensor_digest(1, (1,), b"a") != tensor_digest(1, (1,), b"b")
    assert trust_cost.WAYS[trust_cost.NOTHING][1] == unsigned.PROGRAM

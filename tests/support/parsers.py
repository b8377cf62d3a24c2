"""Every parser of what comes from outside and is signed, proven or logged, with files that it takes and what it may raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError

from folkmoot.coordinator.audit.question import Question
from folkmoot.coordinator.audit.selection import Selection
from folkmoot.coordinator.dispatch.acceptance import Expected, accept
from folkmoot.coordinator.dispatch.challenge import SentChallenge
from folkmoot.errors import TrustError, UsageError, WireError
from folkmoot.ids import ExpertKey
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.memory_log import ORIGIN, MemoryLog
from folkmoot.tests.support.small_evidence import (
    COORDINATOR,
    NO_EXPERTS,
    NODE,
    OTHER,
    PROFILE,
    bias_evidence,
    evidence,
    signed_frame,
)
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.bias_evidence import BiasEvidence
from folkmoot.trust.checkpoints import (
    Checkpoint,
    CheckpointError,
    log_key,
    named_log_key,
    open_checkpoint,
    sign_checkpoint,
)
from folkmoot.trust.evidence import Evidence
from folkmoot.trust.evidence_check import check_bytes
from folkmoot.trust.invite import Invite, InviteError
from folkmoot.trust.keys import fingerprint
from folkmoot.trust.log_entries import CreditEntry, EnrolmentEntry, LogEntry, ReceiptsEntry
from folkmoot.trust.log_tiles import (
    CHECKPOINT_PATH,
    LogError,
    Tile,
    decode_bundle,
    encode_bundle,
    tile_hashes,
)
from folkmoot.trust.log_verifier import LogVerifier
from folkmoot.trust.logged_receipts import LoggedReceipt, batch_entry
from folkmoot.trust.receipts import CreditedResult, ReceiptChain, ReceiptFormError, SignedReceipt
from folkmoot.trust.signed_frame import MalformedEvidenceError
from folkmoot.trust.signed_notes import NoteError, NoteKey, open_note, sign_note
from folkmoot.trust.sketch import ExpertSketch, SketchError
from folkmoot.trust.statements import ResultStatement, StatementError, TaskStatement
from folkmoot.trust.thresholds import Thresholds, ThresholdsError
from folkmoot.trust.tickets import TicketError, check_ticket, issue_ticket
from folkmoot.trust.tls import PinError, TlsIdentity, check_certificate


@dataclass(frozen=True)
class Parser:
    """One parser.

    Attributes:
        name: For a test's name.
        files: What it takes, several if it can be: halves of them are put together.
        parse: Takes bytes; gives what they must be again, None where that is not for it to say.
        refusals: All that it may raise.
    """

    name: str
    files: Sequence[bytes]
    parse: Callable[[bytes], bytes | None]
    refusals: tuple[type[Exception], ...]


def _nothing(function: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        function(data)

    return parse


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _receipts() -> list[SignedReceipt]:
    found, previous = [], None
    chain = ReceiptChain(COORDINATOR.public, NODE.public, b"s" * 32, b"m" * 32)
    for number in range(1, 4):
        result = CreditedResult(number, bytes([number]) * 32, 2, 100)
        signed = SignedReceipt.signed(chain.next(previous, [result], number, 5), COORDINATOR)
        found.append(signed)
        previous = signed.receipt
    return found


def _evidence_parsers() -> list[Parser]:
    single = [evidence().encode(), evidence(1, 4).encode()]
    many = [bias_evidence().encode(), bias_evidence(3, 5).encode()]

    def check(data: bytes) -> None:
        steps = list(check_bytes(data, NO_EXPERTS, COORDINATOR.public))
        assert not steps[-1].held, "nothing is proven without weights"

    malformed = (MalformedEvidenceError,)
    return [
        Parser("evidence", single, lambda data: Evidence.decode(data).encode(), malformed),
        Parser("evidence of a bias", many, lambda data: BiasEvidence.decode(data).encode(), malformed),
        Parser("check of evidence", single + many, check, ()),
    ]


def _statement_parsers() -> list[Parser]:
    frames = [signed_frame(number, number, 2) for number in range(1, 4)]
    return [
        Parser(
            "task",
            [frame.task.encode() for frame in frames],
            lambda data: TaskStatement.decode(data, PROFILE).encode(),
            (StatementError,),
        ),
        Parser(
            "result",
            [frame.result.encode() for frame in frames],
            lambda data: ResultStatement.decode(data).encode(),
            (StatementError,),
        ),
        Parser(
            "receipt",
            [one.encode() for one in _receipts()],
            lambda data: SignedReceipt.decode(data).encode(),
            (ReceiptFormError,),
        ),
        Parser(
            "ticket",
            [issue_ticket(COORDINATOR, key, 1_000_000) for key in (NODE.public, OTHER.public)],
            _nothing(lambda data: check_ticket(COORDINATOR.public, data, NODE.public, 5.0)),
            (TicketError,),
        ),
        Parser(
            "certificate",
            [TlsIdentity.generate(one).certificate_pem for one in (COORDINATOR, OTHER)],
            _nothing(lambda data: check_certificate(data, fingerprint(COORDINATOR.public))),
            (PinError,),
        ),
        Parser(
            "invite",
            [Invite("example.org", 443, fingerprint(COORDINATOR.public), b"j" * 16).encode().encode()],
            _nothing(lambda data: Invite.parse(_text(data))),
            (InviteError, UsageError),
        ),
    ]


def _log_parsers() -> list[Parser]:
    entries = [
        LogEntry.signed(statement, COORDINATOR).encode()
        for statement in (
            EnrolmentEntry(COORDINATOR.public, NODE.public, b"v" * 32, 5),
            evidence().verdict,
            ReceiptsEntry(COORDINATOR.public, 3, b"r" * 32, 6),
            CreditEntry(COORDINATOR.public, NODE.public, 4, 5, 6, 7),
        )
    ]
    batch = _receipts()[:1]
    batched = LogEntry.signed(batch_entry(COORDINATOR.public, batch, 9), COORDINATOR).encode()
    logged = [LoggedReceipt(batch[0], 0, (b"p" * 32,) * many, batched, 7).encode() for many in (0, 3)]
    log = MemoryLog(COORDINATOR)
    checkpoint = log.publish(entries * 70)
    bundle, tile = Tile(None, 0, 5), Tile(0, 0, 5)
    key = NoteKey(ORIGIN, COORDINATOR.verifying_key)
    own = log_key(COORDINATOR.verifying_key)
    notes = [log.files[CHECKPOINT_PATH], sign_note("a text\n", ORIGIN, COORDINATOR)]
    notes.append(sign_checkpoint(Checkpoint(own.name, 3, b"r" * 32), COORDINATOR))
    served = [path for path in log.files if path.startswith("tile/") and not path.endswith(".p/4")]

    def read(data: bytes) -> None:
        """Each file that the log serves, in turn, is what came."""
        path = served[len(data) % len(served)]
        verifier = LogVerifier(key, lambda wanted: data if wanted == path else log.files.get(wanted))
        assert [entry for _, entry in verifier.entries(checkpoint)] == log.entries

    return [
        Parser("log entry", entries, lambda data: LogEntry.decode(data).encode(), (LogError,)),
        Parser(
            "logged receipt", logged, lambda data: LoggedReceipt.decode(data).encode(), (ReceiptFormError,)
        ),
        Parser("bundle", [encode_bundle([*entries, b""])], _bundle(bundle), (LogError,)),
        Parser("tile", [bytes(range(160))], lambda data: b"".join(tile_hashes(tile, data)), (LogError,)),
        Parser("log", [log.files[path] for path in served], read, (TrustError,)),
        Parser(
            "tile's path",
            [b"tile/0/x001/234.p/7", b"tile/entries/000"],
            lambda data: Tile.parse(_text(data)).path.encode(),
            (LogError,),
        ),
        Parser("note", notes, _nothing(lambda data: open_note(data, key)), (NoteError,)),
        Parser("signed checkpoint", notes, _nothing(lambda data: open_checkpoint(data, own)), (NoteError,)),
        Parser(
            "checkpoint",
            [checkpoint.text().encode()],
            lambda data: Checkpoint.parse(_text(data)).text().encode("utf-8", "surrogateescape"),
            (CheckpointError,),
        ),
        Parser("log's name", notes, _nothing(named_log_key), (NoteError,)),
        Parser(
            "log's key",
            [key.encode().encode(), own.encode().encode()],
            _nothing(lambda data: NoteKey.parse(_text(data))),
            (NoteError,),
        ),
    ]


def _bundle(tile: Tile) -> Callable[[bytes], bytes]:
    return lambda data: encode_bundle(decode_bundle(tile, data))


def _wire_parsers() -> list[Parser]:
    model = MemoryExperts(hidden=4, intermediate=4)
    node, spec = AskedNode(model, bytes(32)), model.manifest.spec_of(ExpertKey(0, 0))
    verified = node.result(0, rows=2)
    openings: list[bytes] = []
    questions = []
    for kind in OpeningKind:
        question = Question.about(verified, Selection((), np.arange(2), verified.pairs), kind)
        answers: list[Any] = []
        node.answer(SentChallenge(question.message(1.0), 2, 1.0, answers.append))
        openings.append(answers[0].SerializeToString())
        questions.append(question)

    def open_one(data: bytes) -> None:
        message = link_pb2.Opening()
        message.ParseFromString(data)
        questions[len(data) % 2].read(message, spec, model.manifest)

    def accept_one(data: bytes) -> None:
        message = link_pb2.Result()
        message.ParseFromString(data)
        found = accept(message, Expected(verified.task, verified.host.key)).output
        assert torch.equal(found, accept(verified.result, Expected(verified.task, verified.host.key)).output)

    refusals = (TrustError, WireError, DecodeError)
    return [
        Parser("opening", openings, open_one, refusals),
        Parser("answer", [verified.result.SerializeToString()], accept_one, refusals),
    ]


def _secret_parsers() -> list[Parser]:
    """What the coordinator reads of its own disk."""
    numbers = np.ones((2, 3), np.float32)
    sketch = ExpertSketch(b"i" * 32, numbers, numbers, numbers, *[np.ones(2, np.float32)] * 3)
    thresholds = Thresholds(1e-4, {"a": 1000}, {})
    return [
        Parser("sketch", [sketch.encode()], lambda data: ExpertSketch.decode(data).encode(), (SketchError,)),
        Parser("thresholds", [thresholds.encode().encode()], _nothing(Thresholds.decode), (ThresholdsError,)),
    ]


@cache
def parsers() -> dict[str, Parser]:
    """All, by name."""
    every = _evidence_parsers() + _statement_parsers() + _log_parsers() + _wire_parsers() + _secret_parsers()
    return {parser.name: parser for parser in every}

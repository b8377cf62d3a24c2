"""Proven: notes and keys are those of C2SP's specification and of Go's reference implementation; a changed note or
checkpoint is refused, and whatever comes as one raises nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.trust.checkpoints import (
    MAX_SIZE,
    Checkpoint,
    CheckpointError,
    open_checkpoint,
    sign_checkpoint,
)
from folkmoot.trust.keys import Identity
from folkmoot.trust.merkle import EMPTY_ROOT
from folkmoot.trust.signed_notes import NoteError, NoteKey, open_note, sign_note

LOG, OTHER = Identity(b"l" * 32), Identity(b"o" * 32)
ORIGIN = "log.example/folkmoot"
KEY = NoteKey(ORIGIN, LOG.verifying_key)
CHECKPOINT = Checkpoint(ORIGIN, 70_000, b"r" * 32)

GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
GO_SIGNATURE = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
"""The key and note that Go's package golang.org/x/mod/sumdb/note is documented with."""
SUMDB_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"


def test_the_reference_implementations_note_is_opened() -> None:
    note = f"{GO_TEXT}\n{GO_SIGNATURE}".encode()
    assert open_note(note, NoteKey.parse(GO_KEY)) == GO_TEXT


@pytest.mark.parametrize("text", [GO_KEY, SUMDB_KEY, KEY.encode()])
def test_keys_have_the_ids_that_are_known(text: str) -> None:
    assert NoteKey.parse(text).encode() == text


def test_lines_of_unknown_keys_are_passed_over() -> None:
    note = f"{GO_TEXT}\n— someone/else {base64.b64encode(b'1234' + b'x' * 100).decode()}\n{GO_SIGNATURE}".encode()
    assert open_note(note, NoteKey.parse(GO_KEY)) == GO_TEXT


def test_every_line_of_the_known_key_must_hold() -> None:
    bad = base64.b64encode(KEY.id + bytes(64)).decode()
    note = sign_note("text\n", ORIGIN, LOG) + f"— {ORIGIN} {bad}\n".encode()
    with pytest.raises(NoteError):
        open_note(note, KEY)


@given(st.text(st.characters(min_codepoint=32, codec="utf-8"), max_size=60), st.integers(0, 3))
def test_what_was_signed_is_opened(line: str, blanks: int) -> None:
    text = f"{line}\n" + "\n" * blanks + "end\n"
    assert open_note(sign_note(text, ORIGIN, LOG), KEY) == text


@pytest.mark.parametrize(
    "key",
    [NoteKey(ORIGIN, OTHER.verifying_key), NoteKey("log.example/other", LOG.verifying_key)],
    ids=["key", "name"],
)
def test_a_note_of_another_key_is_refused(key: NoteKey) -> None:
    with pytest.raises(NoteError):
        open_note(sign_note("text\n", ORIGIN, LOG), key)


def test_base64_has_one_form() -> None:
    """A signature's last character has two bits to spare."""
    note = sign_note("text\n", ORIGIN, LOG).decode()
    assert note.endswith("=\n")
    spare = note[:-3] + chr(ord(note[-3]) + 1) + "=\n"
    with pytest.raises(NoteError, match="canonical"):
        open_note(spare.encode(), KEY)


@given(st.data())
def test_any_bit_flipped_is_refused(data: st.DataObject) -> None:
    note = sign_checkpoint(CHECKPOINT, LOG)
    bit = data.draw(st.integers(0, 8 * len(note) - 1))
    flipped = (int.from_bytes(note) ^ 1 << bit).to_bytes(len(note))
    with pytest.raises(NoteError):
        open_checkpoint(flipped, KEY)


@given(st.binary(max_size=200) | st.text(alphabet="— \nabc=+/0", max_size=80).map(str.encode))
def test_whatever_comes_as_a_note_raises_nothing_else(note: bytes) -> None:
    for data in (note, GO_TEXT.encode() + note, b"a\n\n\xe2\x80\x94 " + note):
        with pytest.raises(NoteError):
            open_checkpoint(data, KEY)


@given(st.text(max_size=120) | st.text(max_size=20).map(lambda tail: f"{ORIGIN}\n7\n{tail}\n"))
def test_whatever_comes_as_a_checkpoint_raises_nothing_else(text: str) -> None:
    try:
        checkpoint = Checkpoint.parse(text)
    except CheckpointError:
        return
    assert checkpoint.text() == text


@given(st.text(max_size=80), st.sampled_from(["{}", "name+{}", "name+12345678+{}"]))
def test_whatever_comes_as_a_key_raises_nothing_else(text: str, form: str) -> None:
    with pytest.raises(NoteError):
        NoteKey.parse(form.format(text))


@pytest.mark.parametrize("text", ["no newline", "tab\there\n", "bell\x07\n", "\ud800\n", "x" * 70_000 + "\n"])
def test_text_that_no_note_can_have_is_not_signed(text: str) -> None:
    with pytest.raises(NoteError):
        sign_note(text, ORIGIN, LOG)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "thin\u2009space", "line\nbreak", "\ud800"])
def test_names_that_no_key_can_have_are_refused(name: str) -> None:
    with pytest.raises(NoteError):
        NoteKey(name, LOG.verifying_key)


@pytest.mark.parametrize(
    "text",
    [
        KEY.encode().replace("+A", "+B"),
        KEY.encode()[:-4],
        "name+00000000+" + base64.b64encode(b"\1" + LOG.public).decode(),
        f"n+{bytes(4).hex()}+" + base64.b64encode(b"\1" + bytes(32)).decode(),
    ],
)
def test_a_mistyped_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        NoteKey.parse(text)


def test_a_checkpoint_has_the_specified_text() -> None:
    text = CHECKPOINT.text()
    assert text == f"{ORIGIN}\n70000\n{base64.b64encode(b'r' * 32).decode()}\n"
    assert open_checkpoint(sign_checkpoint(CHECKPOINT, LOG), KEY) == CHECKPOINT
    extended = Checkpoint(ORIGIN, 1, b"r" * 32, ("more", "lines"))
    assert Checkpoint.parse(extended.text()) == extended


def test_a_log_signs_only_in_its_own_name() -> None:
    note = sign_note(Checkpoint("another.example", 7, b"r" * 32).text(), ORIGIN, LOG)
    with pytest.raises(CheckpointError):
        open_checkpoint(note, KEY)


ROOT = base64.b64encode(b"r" * 32).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"\n7\n{ROOT}\n",
        f"{ORIGIN}\n07\n{ROOT}\n",
        f"{ORIGIN}\n-7\n{ROOT}\n",
        f"{ORIGIN}\n٧\n{ROOT}\n",
        f"{ORIGIN}\n{MAX_SIZE + 1}\n{ROOT}\n",
        f"{ORIGIN}\n0\n{ROOT}\n",
        f"{ORIGIN}\n7\n{ROOT}",
        f"{ORIGIN}\n7\n{ROOT}\n\n",
        f"{ORIGIN}\n7\n{ROOT[:-4]}\n",
        f"{ORIGIN}\n7\n {ROOT}\n",
        f"{ORIGIN}\n7\n{ROOT[:-2]}d=\n",
    ],
    ids=range(11),
)
def test_a_text_that_is_not_quite_a_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint.parse(text)


def test_an_empty_log_has_the_empty_root() -> None:
    assert Checkpoint.parse(Checkpoint(ORIGIN, 0, EMPTY_ROOT).text()).size == 0

"""Proven: a key file is its owner's alone from its first moment on, creators that race agree, a second start finds the same
key, and whatever else lies at the path is refused with what to do."""

from __future__ import annotations

import errno
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.disk import DiskFullError
from folkmoot.trust.keys import Identity, KeyFileError
from folkmoot.trust.secret_files import (
    MAX_SECRET_FILE_BYTES,
    SecretFileError,
    create_secret_file,
    read_secret_file,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "node" / "identity.key"


def test_a_new_key_file_and_its_folders_are_the_owners_alone(key_file: Path) -> None:
    before = os.umask(0)
    try:
        Identity.load_or_create(key_file)
    finally:
        os.umask(before)
    assert mode(key_file) == 0o600
    assert mode(key_file.parent) == mode(key_file.parent.parent) == 0o700
    assert [path.name for path in key_file.parent.iterdir()] == ["identity.key"]


def test_a_second_start_finds_the_same_key(key_file: Path) -> None:
    first = Identity.load_or_create(key_file)
    second = Identity.load_or_create(key_file)
    assert second.public == first.public
    assert second.sign(b"m") == first.sign(b"m")


def test_threads_that_create_at_once_agree(key_file: Path) -> None:
    barrier = Barrier(8)

    def create(_: int) -> bytes:
        barrier.wait(timeout=30)
        return Identity.load_or_create(key_file).public

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(create, range(8)))) == 1
    assert [path.name for path in key_file.parent.iterdir()] == ["identity.key"]


CREATOR = """
import sys
from pathlib import Path
from folkmoot.trust.keys import Identity
print("ready", flush=True)
sys.stdin.readline()
print(Identity.load_or_create(Path(sys.argv[1])).node_id)
"""


def test_processes_that_create_at_once_agree(key_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CREATOR, str(key_file)]
    creators = [Popen(command, cwd=tmp_path, stdin=PIPE, stdout=PIPE, text=True) for _ in range(4)]
    for creator in creators:
        assert creator.stdout is not None and creator.stdout.readline() == "ready\n"
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write("go\n")
        creator.stdin.flush()
    answers = {creator.communicate(timeout=60)[0].strip() for creator in creators}
    assert answers == {Identity.load_or_create(key_file).node_id}


def test_who_comes_second_gets_the_firsts_content(key_file: Path) -> None:
    assert create_secret_file(key_file, b"first") == b"first"
    assert create_secret_file(key_file, b"second") == b"first"
    assert read_secret_file(key_file) == b"first"


def test_no_file_is_not_an_error(key_file: Path) -> None:
    assert read_secret_file(key_file) is None


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644, 0o610, 0o666])
def test_a_key_that_others_can_read_is_refused(key_file: Path, bits: int) -> None:
    Identity.load_or_create(key_file)
    key_file.chmod(bits)
    with pytest.raises(SecretFileError, match=f"{bits:04o}") as caught:
        Identity.load_or_create(key_file)
    assert f"chmod 600 {key_file}" in caught.value.advice
    key_file.chmod(0o600)
    Identity.load_or_create(key_file)


@given(data=st.data())
def test_a_key_file_with_any_character_changed_is_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "identity.key"
    seed = bytes(range(160, 192))
    content = bytearray(f"folkmoot identity 1\n{seed.hex()}\n{Identity(seed).public.hex()}\n".encode())
    create_secret_file(path, bytes(content))
    assert Identity.load_or_create(path).public == Identity(seed).public
    place = data.draw(st.integers(0, len(content) - 2))
    content[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    path.write_bytes(content)
    with pytest.raises(KeyFileError) as caught:
        Identity.load_or_create(path)
    assert str(path) in caught.value.message and caught.value.advice
    assert path.read_bytes() == content, "a damaged key is never overwritten"


@pytest.mark.parametrize(
    ("before", "after"), [(b"a", b"A"), (b"\n", b"\r"), (b"\n", b"\r\n"), (b"a0", b"a 0")]
)
def test_a_key_file_that_means_the_same_but_was_not_written_so_is_refused(
    before: bytes, after: bytes, key_file: Path
) -> None:
    seed = bytes(range(160, 192))
    body = f"{seed.hex()}\n{Identity(seed).public.hex()}\n".encode()
    assert before in body
    create_secret_file(key_file, b"folkmoot identity 1\n" + body.replace(before, after))
    with pytest.raises(KeyFileError):
        Identity.load_or_create(key_file)


@given(content=st.binary(max_size=300))
def test_arbitrary_content_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("arbitrary") / "identity.key"
    create_secret_file(path, content)
    with pytest.raises(KeyFileError):
        Identity.load_or_create(path)


@pytest.mark.parametrize("keep", [0, 1, 20, 84, 100, 148])
def test_a_key_file_cut_short_is_refused(key_file: Path, keep: int) -> None:
    Identity.load_or_create(key_file)
    key_file.write_bytes(key_file.read_bytes()[:keep])
    with pytest.raises(KeyFileError):
        Identity.load_or_create(key_file)


def test_an_endless_key_file_is_not_read_to_its_end(key_file: Path) -> None:
    create_secret_file(key_file, b"")
    os.truncate(key_file, 1 << 40)
    with pytest.raises(SecretFileError, match=str(MAX_SECRET_FILE_BYTES)):
        Identity.load_or_create(key_file)


def test_a_folder_in_the_keys_place_is_refused(key_file: Path) -> None:
    key_file.mkdir(parents=True)
    with pytest.raises(SecretFileError):
        Identity.load_or_create(key_file)


def test_a_pipe_in_the_keys_place_is_refused_and_does_not_hang(key_file: Path) -> None:
    key_file.parent.mkdir(parents=True)
    os.mkfifo(key_file, 0o600)
    with pytest.raises(SecretFileError, match="regular"):
        Identity.load_or_create(key_file)


def test_a_file_in_the_folders_place_is_refused(key_file: Path) -> None:
    key_file.parent.parent.mkdir()
    key_file.parent.write_text("in the way")
    with pytest.raises(SecretFileError, match="cannot be") as caught:
        Identity.load_or_create(key_file)
    assert caught.value.advice


def test_a_failed_creation_leaves_nothing_behind(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SecretFileError, match="cannot be written"):
        Identity.load_or_create(key_file)
    assert list(key_file.parent.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "link", "open"])
def test_a_full_disk_is_no_fault_of_the_key(
    key_file: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    create_secret_file(key_file.with_name("other"), b"so that the folder is there")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(DiskFullError, match=f"{key_file}.*free some room") as caught:
            create_secret_file(key_file, b"secret")
    assert caught.value.exit_code == 6
    assert [path.name for path in key_file.parent.iterdir()] == ["other"]

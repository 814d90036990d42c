"""Signed heads are C2SP signed notes, and nobody can change one or pass off another's."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import ed25519, note
from ledger.errors import NoteRefused
from ledger.note import Checkpoint, Key

READ_NOTE = Path(__file__).parents[2] / ".cache/programs/read_note"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = Key("osmoda-ledger/test", PRIVATE.public_key().public_bytes_raw())
HEAD = Checkpoint("osmoda-ledger/test", 1042, hashlib.sha256(b"head").digest())
NOTE = note.signed(HEAD, KEY, PRIVATE.sign(HEAD.text().encode()))

# The example of the Go package golang.org/x/mod/sumdb/note, the first implementation of the format.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""


def test_a_note_is_what_it_was_signed_as() -> None:
    assert note.read(NOTE, KEY) == note.read(NOTE) == HEAD
    assert NOTE.startswith("osmoda-ledger/test\n1042\n")


def test_a_key_can_be_handed_on_as_text() -> None:
    assert Key.parse(str(KEY)) == KEY


def test_the_key_and_signature_of_another_implementation_are_understood() -> None:
    key = Key.parse(GO_KEY)
    assert str(key) == GO_KEY
    text, _, line = GO_NOTE.rpartition("\n\n")
    content = base64.b64decode(line.split()[-1])
    assert content[:4] == key.id
    assert ed25519.verify(key.public, f"{text}\n".encode(), content[4:])
    with pytest.raises(NoteRefused, match="not a checkpoint"):
        note.read(GO_NOTE, key)


@pytest.mark.real
def test_the_first_implementation_opens_our_notes(go: Callable[[str, Key], str]) -> None:
    """golang.org/x/mod/sumdb/note, compiled (tests/ledger/counterparts)."""
    assert go(NOTE, KEY) == HEAD.text()
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    witnessed = NOTE + note.signed(HEAD, Key("witness", bytes(32)), other.sign(b"")).rpartition("\n\n")[2]
    assert go(witnessed, KEY) == HEAD.text()
    with pytest.raises(ValueError, match="invalid signature"):
        go(NOTE.replace("1042", "1041"), KEY)
    with pytest.raises(ValueError, match="no verifiable signatures"):
        go(NOTE, Key("another", KEY.public))


@pytest.fixture
def go() -> Callable[[str, Key], str]:
    if not READ_NOTE.exists():
        pytest.skip("`make counterparts` builds it")

    def text(signed: str, key: Key) -> str:
        done = subprocess.run(
            [READ_NOTE, str(key)], input=signed, capture_output=True, text=True, timeout=240
        )
        if done.returncode != 0:
            raise ValueError(done.stderr)
        return done.stdout

    return text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1042", "1041"),
        ("/test\n", "/tess\n"),
        (HEAD.text().split("\n")[2][:6], "AAAAAA"),
        ("\n\n", "\nmore\n\n"),
    ],
)
def test_a_changed_note_is_refused(old: str, new: str) -> None:
    changed = NOTE.replace(old, new, 1)
    assert changed != NOTE
    assert note.read(changed)  # it reads well; only the key tells
    with pytest.raises(NoteRefused, match="not good"):
        note.read(changed, KEY)


def test_signatures_of_others_are_ignored_and_do_not_count() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    other_key = Key(KEY.name, other.public_key().public_bytes_raw())
    theirs = note.signed(HEAD, other_key, other.sign(HEAD.text().encode()))
    both = NOTE + theirs.rpartition("\n\n")[2]
    assert note.read(both, KEY) == note.read(both, other_key) == HEAD
    with pytest.raises(NoteRefused, match="there is no signature of osmoda-ledger/test"):
        note.read(theirs, KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("1042", "01042"),
        NOTE.replace("1042", "-1"),
        NOTE.replace("1042\n", ""),
        NOTE.replace("=\n\n", "\n\n"),
        NOTE.replace("\n1042", "\r\n1042"),
        NOTE.replace("— ", "-- "),
    ],
)
def test_what_is_no_signed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteRefused):
        note.read(text, KEY)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b+c", str(KEY)[:-4], str(KEY).replace("/test", "/tess"), "+" + str(KEY).split("+", 1)[1]],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(NoteRefused):
        Key.parse(text)


def test_a_file_of_notes_gives_them_back_and_tells_a_torn_one() -> None:
    assert note.split(f"{NOTE}\n{NOTE}\n") == ([NOTE, NOTE], "")
    assert note.split(NOTE) == ([NOTE], "")
    assert note.split("") == ([], "")
    for length in range(1, len(NOTE)):
        assert note.split(f"{NOTE}\n{NOTE[:length]}") == ([NOTE], NOTE[:length])


# --- Ed25519


def test_a_known_signature_of_the_standard_is_good() -> None:
    """RFC 8032, section 7.1, tests 1 and 3."""
    vectors = [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ]
    for public, message, signature in vectors:
        assert ed25519.verify(*map(bytes.fromhex, (public, message, signature)))


@settings(max_examples=60, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=200), bit=st.integers(0, 511))
def test_it_agrees_with_the_library(seed: bytes, message: bytes, bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert ed25519.verify(public, message, signature)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not ed25519.verify(public, message, bytes(flipped))
    assert not ed25519.verify(public, message + b"x", signature)


@settings(max_examples=60, deadline=None)
@given(public=st.binary(min_size=32, max_size=32), signature=st.binary(min_size=64, max_size=64))
def test_random_bytes_are_never_good(public: bytes, signature: bytes) -> None:
    assert not ed25519.verify(public, b"message", signature)
    with pytest.raises((InvalidSignature, ValueError)):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, b"message")


def test_a_second_signature_cannot_be_made_of_a_first() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = PRIVATE.sign(b"message")
    larger = int.from_bytes(signature[32:], "little") + order
    assert not ed25519.verify(KEY.public, b"message", signature[:32] + larger.to_bytes(32, "little"))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_size_verifies_nothing(size: int) -> None:
    assert not ed25519.verify(bytes(size), b"", bytes(64))
    assert not ed25519.verify(KEY.public, b"", bytes(size))

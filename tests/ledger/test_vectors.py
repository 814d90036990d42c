"""The vectors of tests/vectors/ledger are what the tool writes, and two verifiers that share no code agree on them."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ledger
from ledger import jsonl, kept, note
from ledger.errors import LedgerError
from ledger.note import Key
from ledger.verify import verify
from tests.ledger import second_verifier
from tools import ledger_vectors

VECTORS = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted(ledger_vectors.FOLDER.glob("*.json"))
}

type Vector = dict[str, Any]


@pytest.fixture(params=VECTORS.values(), ids=VECTORS)
def vector(request: pytest.FixtureRequest) -> Vector:
    return request.param


def export(vector: Vector, path: Path) -> Path:
    path.write_text("".join(f"{line}\n" for line in vector["lines"]), "utf-8")
    return path


def test_the_vectors_are_what_the_tool_writes() -> None:
    for path, text in ledger_vectors.pages().items():
        assert path.read_text("utf-8") == text
    assert {path.stem for path in ledger_vectors.pages()} == VECTORS.keys()


def test_our_verifier_finds_what_the_vector_says(vector: Vector, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("\n".join(vector.get("kept", [])), "utf-8")
    key = Key.parse(vector["key"]) if "key" in vector else None
    heads = kept.heads([str(tmp_path / "kept")], key) if key else []
    lines = export(vector, tmp_path / "export")
    if vector["lines"] and not vector["lines"][-1].endswith("}"):
        with pytest.raises(LedgerError, match=f"line {vector['first']} is not an entry"):
            jsonl.verify(lines, against=heads)
        return
    verdict = jsonl.verify(lines, against=heads)
    assert verdict.ok == vector["verifies"]
    if verdict.ok:
        assert {"seq": verdict.head.seq, "hash": verdict.head.hash.hex()} == vector["head"]
        assert verdict.agreed == len(heads)
    else:
        assert re.match(rf"entr(y|ies) {vector['first']}\b", verdict.problems[0])


def test_the_second_verifier_finds_the_same(vector: Vector) -> None:
    heads = [second_verifier.head_of(signed, vector["key"]) for signed in vector.get("kept", [])]
    first, ledger = second_verifier.first_wrong(vector["lines"], heads)
    assert first == vector.get("first")
    if vector["verifies"]:
        assert vector["head"] == {"seq": len(ledger.hashes) - 1, "hash": ledger.hashes[-1].hex()}


def test_the_second_verifier_adds_up_the_same() -> None:
    vector = VECTORS["good"]
    _, ledger = second_verifier.first_wrong(vector["lines"], [])
    assert ledger.projection() == vector["projection"]


def test_the_second_verifier_shares_no_code() -> None:
    tree = ast.parse(Path(second_verifier.__file__).read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= {*sys.stdlib_module_names, "cryptography"}


def test_an_import_of_a_sound_export_has_its_head_and_verifies(tmp_path: Path) -> None:
    vector = VECTORS["good"]
    head = jsonl.restore(export(vector, tmp_path / "export"), tmp_path / "ledger")
    assert {"seq": head.seq, "hash": head.hash.hex()} == vector["head"]
    heads = sorted(note.read(signed).head for signed in vector["kept"])
    verdict = verify(tmp_path / "ledger", against=heads)
    assert (verdict.problems, verdict.head, verdict.agreed) == ([], head, 2)


def test_an_auditor_needs_this_folder_and_python_and_nothing_else(tmp_path: Path) -> None:
    """No package of anybody: signatures are checked, the ledger is verified and exported with the standard library."""
    shutil.copytree(
        Path(ledger.__file__).parent, tmp_path / "ledger", ignore=shutil.ignore_patterns("__pycache__")
    )
    vector = VECTORS["good"]
    export(vector, tmp_path / "export")
    (tmp_path / "kept").write_text("\n".join(vector["kept"]), "utf-8")

    def alone(*arguments: str) -> str:
        command = [sys.executable, "-E", "-s", "-S", "-m", "ledger", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    assert alone("import", "export", "copy").startswith("copy: ")
    said = alone("verify", "copy", "--against", "kept", "--key", vector["key"])
    assert said.splitlines()[-1] == "heads kept elsewhere: 2 agree, signatures good"
    assert alone("export", "copy", "--format", "jsonl") == (tmp_path / "export").read_text("utf-8")
    assert alone("export", "copy", "--format", "csv").startswith("date,domain,caller,purpose")


@pytest.mark.parametrize(
    "name", [name for name, vector in VECTORS.items() if not vector["verifies"] and "kept" not in vector]
)
def test_a_damaged_export_is_not_imported(name: str, tmp_path: Path) -> None:
    with pytest.raises(LedgerError):
        jsonl.restore(export(VECTORS[name], tmp_path / "export"), tmp_path / "ledger")
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == ["export"]

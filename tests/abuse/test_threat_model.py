"""docs/threat-model.md and the staged attacks say the same."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from keyd.reasons import Reason

HERE = Path(__file__).parent
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/threat-model.md"
NUMBERS = list(range(1, 52))


@dataclass(frozen=True)
class Row:
    number: int
    file: str
    what: str
    must: str
    codes: frozenset[str]
    tests: frozenset[str]


@dataclass(frozen=True)
class Staged:
    """One test that is marked with the number of a row."""

    number: int
    file: str
    name: str
    source: str


def document_rows() -> list[Row]:
    rows, file = [], ""
    for line in DOCUMENT.read_text().splitlines():
        if match := re.search(r"`tests/abuse/(test_\w+\.py)`", line):
            file = match[1]
        if re.match(r"\| \d+ \|", line):
            number, what, must, codes, tests = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append(Row(int(number), file, what, must, _quoted(codes), _quoted(tests)))
    return rows


def _quoted(cell: str) -> frozenset[str]:
    return frozenset(re.findall(r"`(\w+)`", cell))


def staged_attacks() -> list[Staged]:
    return [
        Staged(number, file.name, function.name, _with_decorators(text, function))
        for file in sorted(HERE.glob("test_*.py"))
        for text in [file.read_text()]
        for function in ast.parse(text).body
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for number in _marks(function)
    ]


def _marks(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    return [
        int(ast.literal_eval(decorator.args[0]))
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.attack"
    ]


def _with_decorators(text: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    first = min(decorator.lineno for decorator in function.decorator_list)
    return "\n".join(text.splitlines()[first - 1 : function.end_lineno])


ROWS, STAGED = document_rows(), staged_attacks()


def test_every_row_is_there_once_in_order() -> None:
    assert [row.number for row in ROWS] == NUMBERS


def test_every_row_names_exactly_the_tests_that_stage_it() -> None:
    named = {row.number: (row.file, row.tests) for row in ROWS}
    marked = {
        number: (
            ", ".join(sorted({attack.file for attack in STAGED if attack.number == number})),
            frozenset(attack.name for attack in STAGED if attack.number == number),
        )
        for number in sorted({attack.number for attack in STAGED})
    }
    assert named == marked
    assert all(tests for _, tests in named.values())


def test_every_code_is_in_the_registry_and_demanded_by_a_test_of_its_row() -> None:
    for row in ROWS:
        sources = "\n".join(attack.source for attack in STAGED if attack.number == row.number)
        assert row.codes <= set(Reason), f"row {row.number}"
        missing = {code for code in row.codes if not re.search(rf"\b{code}\b", sources)}
        assert not missing, f"row {row.number}: no test demands {missing}"


def test_every_code_that_a_test_demands_is_in_its_row() -> None:
    demanded = re.compile(r"""["'](?:rejected; reason=)?([a-z0-9_]+)["';]""")
    for row in ROWS:
        sources = "\n".join(attack.source for attack in STAGED if attack.number == row.number)
        codes = {code for code in demanded.findall(sources) if code in set(Reason)}
        assert codes <= row.codes, f"row {row.number}"


def test_every_row_says_what_happens_and_what_must_happen() -> None:
    assert all(row.what and row.must for row in ROWS)
    assert len({row.what for row in ROWS}) == len(ROWS)

"""The record for other programs: JSON lines of entries; CSV, beancount and ledger-cli of payments.

JSON lines are the entries themselves (`ledger.jsonl`). The others show payments as the projection has them, for
accounts; nothing can be verified by them.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from ledger import beancount, jsonl, ledger_cli, schema, store
from ledger.accounts import Transaction
from ledger.errors import LedgerError
from ledger.projection import Payment
from ledger.states import State

COLUMNS: Final = (
    "date", "domain", "caller", "purpose", "amount", "asset", "usd", "network", "pay_to", "transaction",
    "payment_id", "state", "proven", "delivered", "wallet", "amount_atomic", "asset_address", "signed_at",
    "session",
)  # fmt: skip
"""Of the CSV. `amount` in whole tokens, where the entry says how many decimals those have; `usd` what the payment
counted for in the budget; `amount_atomic` exact in any case."""


_FORMULA: Final = re.compile(r"(^|;)(?=\s*[=+@＝＋－＠-])")  # noqa: RUF001 - full width
"""Where one could begin: LibreOffice, and Excel in half of the world, part cells at semicolons as well."""


INCOMPLETE: Final = "incomplete: this export ends here, because the ledger could not be read further\n"
"""No entry, no row of the CSV's width, no directive: whatever reads the export stops here instead of believing it."""
_NOT_AS_WRITTEN: Final = (
    ArithmeticError,
    AttributeError,
    KeyError,
    IndexError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading something else than keyd wrote ends in: exports trust the file, and `verify` says what is wrong with it."""
_CHECK_PATH: Final = "Check the path and your permissions."


class Period(NamedTuple):
    """UTC days, both included; None for no bound."""

    since: str | None = None
    until: str | None = None

    @classmethod
    def parse(cls, since: str | None, until: str | None) -> Period:
        """Of YYYY-MM-DD. Raises LedgerError."""
        for text in (since, until):
            if text is not None:
                _midnight(text)
        return cls(since, until)

    def seconds(self) -> tuple[int, int]:
        """From the first second, up to but without the second: Unix time."""
        begin = 0 if self.since is None else int(_midnight(self.since).timestamp())
        end = 2**62 if self.until is None else int((_midnight(self.until) + timedelta(days=1)).timestamp())
        return begin, end


class Bought(NamedTuple):
    """A payment and what its entries say beside the projection."""

    payment: Payment
    purpose: str
    """Method and path of the request, or what the program said that it is for."""
    pay_to: str
    symbol: str | None
    decimals: int | None
    transaction: str | None
    """Of the chain, if it is proven; otherwise as the seller claims."""
    session: str | None = None
    """Label and id of the session that it was made in, "research/5891b5b522d5df08"."""

    @property
    def amount(self) -> str | None:
        """In whole tokens, exactly; None if the entry does not say what those are."""
        return None if self.decimals is None else decimal(int(self.payment.amount), self.decimals)

    @property
    def day(self) -> str:
        return datetime.fromtimestamp(self.payment.signed_at, UTC).strftime("%Y-%m-%d")


def export(db: sqlite3.Connection, form: str, period: Period) -> Iterator[str]:
    """The ledger that `db` has open, in pieces of text. `form` is one of `FORMATS`. Raises sqlite3.Error."""
    return FORMATS[form](db, period)


def export_file(path: Path, form: str, period: Period) -> Iterator[str]:
    """The same of a ledger file, beside a running keyd or without one.

    Raises LedgerError; after the last piece that could be read comes INCOMPLETE then.
    """
    begun = False
    try:
        store.refuse_empty(path)
        with closing(store.open_reader(path)) as db:
            store.check_format(db)
            db.execute("BEGIN")  # one moment of the ledger
            for text in export(db, form, period):
                yield text
                begun = True
    except (LedgerError, OSError, sqlite3.Error, *_NOT_AS_WRITTEN) as error:
        if begun:
            yield INCOMPLETE
        raise _in_words(path, error) from error


def _in_words(path: Path, error: Exception) -> LedgerError:
    if isinstance(error, LedgerError):
        return LedgerError(f"cannot export {path}: {error}", error.hint)
    if isinstance(error, OSError):
        return LedgerError(f"cannot export {path}: {error.strerror}", _CHECK_PATH)
    if isinstance(error, sqlite3.Error):
        # Text that is not UTF-8 is an error without a code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        hint = store.RESTORE if code == sqlite3.SQLITE_CORRUPT else _CHECK_PATH
        return LedgerError(f"cannot export {path}: {error}", hint)
    return LedgerError(f"cannot export {path}: it holds something that keyd does not write", store.RESTORE)


def decimal(units: int, decimals: int) -> str:
    """`units` of 10^-decimals as a decimal without superfluous zeros."""
    whole, rest = divmod(units, 10**decimals)
    fraction = f"{rest:0{decimals}d}".rstrip("0") if decimals else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


def _jsonl(db: sqlite3.Connection, period: Period) -> Iterator[str]:
    """Entries from the first one of the period to the last: no gaps, even if the clock went backwards."""
    first, last = 1, 2**62
    if period != (None, None):
        days = db.execute("SELECT seq, json_extract(entry, '$.ts') FROM entries ORDER BY seq")
        inside = [seq for seq, ts in days if _includes(period, ts[:10])]
        first, last = (inside[0], inside[-1]) if inside else (1, 0)
    query = "SELECT entry, hash FROM entries WHERE seq BETWEEN ? AND ? ORDER BY seq"
    for encoded, hash_ in db.execute(query, (first, last)):
        yield jsonl.line(encoded, hash_)


def _csv(db: sqlite3.Connection, period: Period) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # RFC 4180
    writer.writerow(COLUMNS)
    for bought in payments(db, period):
        writer.writerow(map(cell, _row(bought)))
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _row(bought: Bought) -> tuple[str | None, ...]:
    payment = bought.payment
    return (
        bought.day, payment.domain, payment.caller, bought.purpose, bought.amount, bought.symbol,
        decimal(payment.usd_micros, 6), payment.network, bought.pay_to, bought.transaction,
        payment.payment_id, payment.state.value, "yes" if payment.proven else "no",
        "yes" if payment.delivered else "no", payment.wallet, payment.amount, payment.asset,
        datetime.fromtimestamp(payment.signed_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        bought.session,
    )  # fmt: skip


def cell(text: str | None) -> str:
    """Safe in a spreadsheet: what sellers and programs wrote must not become a formula (OWASP, CSV injection)."""
    visible = "".join(char if char.isprintable() else " " for char in text or "")
    return _FORMULA.sub(r"\1'", visible)


def _beancount(db: sqlite3.Connection, period: Period) -> Iterator[str]:
    wallets = [
        (wallet, datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%d"))
        for wallet, first in db.execute(
            "SELECT wallet, min(signed_at) FROM payments WHERE signed_at >= ? AND signed_at < ? GROUP BY wallet",
            period.seconds(),
        )
    ]
    yield from beancount.opening(wallets)
    yield from map(beancount.transaction, _transactions(db, period))


def _ledger_cli(db: sqlite3.Connection, period: Period) -> Iterator[str]:
    yield from map(ledger_cli.transaction, _transactions(db, period))


def _transactions(db: sqlite3.Connection, period: Period) -> Iterator[Transaction]:
    for bought in payments(db, period):
        payment = bought.payment
        yield Transaction(
            day=bought.day,
            payee=payment.domain,
            narration=bought.purpose,
            sure=payment.proven,
            released=payment.state is State.RELEASED,
            wallet=payment.wallet,
            amount=bought.amount,
            symbol=bought.symbol,
            usd=decimal(payment.usd_micros, 6),
            metadata={
                "payment_id": payment.payment_id,
                "state": payment.state.value,
                "caller": payment.caller,
                "network": payment.network,
                "asset": payment.asset,
                "amount_atomic": payment.amount,
                "pay_to": bought.pay_to,
                "transaction": bought.transaction,
                "session": bought.session,
            },
        )


def payments(db: sqlite3.Connection, period: Period) -> Iterator[Bought]:
    """Payments signed in the period, in that order."""
    columns = ", ".join(schema.PAYMENT_COLUMNS)
    query = f"SELECT {columns} FROM payments WHERE signed_at >= ? AND signed_at < ? ORDER BY signed_at, signed_seq"  # noqa: S608 - constants
    for row in db.execute(query, period.seconds()):
        payment = schema.payment_from_row(row)
        story = db.execute(
            "SELECT e.entry FROM payment_entries p JOIN entries e USING (seq) WHERE p.payment_id = ? ORDER BY seq",
            (payment.payment_id,),
        )
        data = [json.loads(encoded)["data"] for (encoded,) in story]
        yield _bought(payment, data, _attempt(db, data[0]))


def _bought(payment: Payment, story: list[dict[str, Any]], attempt: Mapping[str, Any]) -> Bought:
    signed = story[0]
    symbol, decimals = signed.get("asset_symbol"), signed.get("asset_decimals")
    proven = [entry.get("transaction") for entry in story if entry.get("proof")]
    claimed = [entry.get("transaction") for entry in story]
    transactions = [text for text in (*reversed(proven), *reversed(claimed)) if isinstance(text, str)]
    asked = [attempt.get("method"), attempt.get("path")]
    purpose = signed.get("purpose") or attempt.get("purpose") or " ".join(str(part) for part in asked if part)
    return Bought(
        payment=payment,
        purpose=str(purpose),
        pay_to=str(signed["authorization"]["to"]),
        symbol=symbol if isinstance(symbol, str) else None,
        decimals=decimals if isinstance(decimals, int) and 0 <= decimals <= 255 else None,  # ERC-20: uint8
        transaction=transactions[0] if transactions else None,
        session=_session(signed.get("session")),
    )


def _session(value: object) -> str | None:
    """ "research/5891b5b522d5df08", if the payment's entry names a session."""
    match value:
        case {"id": str(id_), "label": str(label)}:
            return f"{label}/{id_}"
    return None


def _attempt(db: sqlite3.Connection, signed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Data of the attempt that a signed payment names; nothing if it names none."""
    seq = signed.get("attempt")
    row = db.execute(
        "SELECT entry FROM entries WHERE seq = ?", (seq if isinstance(seq, int) else 0,)
    ).fetchone()
    data: Mapping[str, Any] = {} if row is None else json.loads(row[0])["data"]
    return data


def _includes(period: Period, day: str) -> bool:
    return (period.since is None or day >= period.since) and (period.until is None or day <= period.until)


def _midnight(day: str) -> datetime:
    try:
        if len(day) != 10:
            raise ValueError(day)  # noqa: TRY301 - one message for both
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise LedgerError(f"{day} is not a day", "Write it as YYYY-MM-DD.") from None


FORMATS: Final[Mapping[str, Callable[[sqlite3.Connection, Period], Iterator[str]]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "beancount": _beancount,
    "ledger": _ledger_cli,
}

"""Transcripts of what concerns keys: show, export, archive, rotate, back up. Against a keyd that answers anything."""

from __future__ import annotations

import base64
import json
import os
import pty
import stat
import subprocess
import sys

import pytest

from keyd import api
from keyd.cli import chain, kek_commands
from keyd.custody.kek import Kek
from tests.cli import json_rpc

ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
WALLET = api.Wallet(label="main", address=ADDRESS, created_at=1795219200, default=True)
VIEW = api.WalletView(
    wallet=WALLET,
    spent_today="0.42",
    spent="3.15",
    payments=412,
    open_payments=3,
    tokens=[
        api.WalletToken(network="eip155:84532", address=USDC, symbol="USDC", decimals=6),
        api.WalletToken(network="eip155:8453", address=USDC, symbol="USDC", decimals=6),
    ],
)
PASSPHRASE = "correct horse battery"


@pytest.fixture
def passphrase_file(tmp_path):
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o600)
    return file


class Node:
    """A server of chain 84532, what it answers, and what it was asked."""

    def __init__(self):
        self.answers = {"eth_chainId": "0x14a34", "eth_call": hex(96_850_000)}
        self.asked = []
        self.url = ""

    def answer(self, question):
        self.asked.append(question)
        return json.dumps({"jsonrpc": "2.0", "id": 1, "result": self.answers[question["method"]]})


@pytest.fixture
def rpc():
    node = Node()
    with json_rpc.answering(node.answer) as node.url:
        yield node


# -- show -------------------------------------------------------------------------------------------------


def test_show_tells_spending_from_keyd_and_the_balance_from_the_chain(keyd, ask, rpc):
    keyd.answers["wallet_show"] = VIEW
    result = ask("wallet", "show", "main", "--rpc-url", rpc.url)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "wallet       main\n"
        f"address      {ADDRESS}\n"
        "state        pays by default\n"
        "created      2026-11-21 00:00:00Z\n"
        "spent today  $0.42\n"
        "spent        $3.15 in 412 payments, 3 not proven yet\n"
        "\n"
        "TOKEN              BALANCE  ACCORDING TO\n"
        f"USDC@eip155:84532    96.85  127.0.0.1:{rpc.url.split(':')[2].split('/')[0]}\n"
    )
    [call] = [question for question in rpc.asked if question["method"] == "eth_call"]
    assert call["params"][0] == {"to": USDC, "data": "0x70a08231" + ADDRESS[2:].lower().rjust(64, "0")}
    assert "secret-key" not in result.out + result.err


def test_show_without_a_server_says_how_to_name_one(keyd, ask, monkeypatch, tmp_path):
    monkeypatch.setattr("keyd.cli.wallet_show.RECONCILE_CONFIG", tmp_path / "none")
    keyd.answers["wallet_show"] = VIEW
    result = ask("wallet", "show", "main")
    assert result.code == 0
    assert "--rpc-url URL" in result.err


def test_show_takes_the_servers_of_the_reconciler(tmp_path):
    from keyd.cli.wallet_show import configured_urls

    file = tmp_path / "reconcile.toml"
    file.write_text(
        '[[networks]]\nnetwork = "eip155:1"\nrpc = ["https://a", "https://b"]\n[[networks]]\nrpc = []\n'
    )
    assert configured_urls(file) == ()
    file.write_text('[[networks]]\nnetwork = "eip155:1"\nrpc = ["https://a", "https://b"]\n')
    assert configured_urls(file) == ("https://a",)
    assert configured_urls(tmp_path / "none") == ()


@pytest.mark.parametrize("answer", [None, "0x", "5", {"a": 1}, "0x" + "f" * 65, "-0x1"])
def test_a_server_that_answers_nonsense_is_no_balance(keyd, ask, rpc, answer, monkeypatch):
    monkeypatch.setitem(rpc.answers, "eth_call", answer)
    keyd.answers["wallet_show"] = VIEW
    result = ask("wallet", "show", "main", "--rpc-url", rpc.url)
    assert result.code == 1
    assert "was not answered with a number" in result.err
    assert "secret-key" not in result.out + result.err


def test_a_server_that_cannot_be_reached_is_named_without_its_key(keyd, ask):
    keyd.answers["wallet_show"] = VIEW
    result = ask("wallet", "show", "main", "--rpc-url", "http://127.0.0.1:1/SECRET")
    assert result.code == 1
    assert "127.0.0.1:1: cannot be asked" in result.err
    assert "SECRET" not in result.err


@pytest.mark.parametrize(
    ("atomic", "decimals", "text"),
    [(0, 6, "0"), (1, 6, "0.000001"), (10, 0, "10"), (2**256 - 1, 0, str(2**256 - 1)), (10**18, 18, "1")],
)
def test_balances_are_exact(atomic, decimals, text):
    assert chain.whole(atomic, decimals) == text


# -- archive, default -------------------------------------------------------------------------------------


def test_archive_restore_and_default_say_what_is_so_now(keyd, ask):
    keyd.answers |= dict.fromkeys(("wallet_archive", "wallet_restore", "wallet_default"), WALLET)
    assert ask("wallet", "archive", "main", "--even-default").out.endswith("signs nothing\n")
    assert ask("wallet", "restore", "main").out.endswith("signs again\n")
    assert ask("wallet", "default", "main").out == f"wallet main pays: {ADDRESS}\n"
    assert ask("wallet", "default", "--as-configured").code == 0
    assert [json.loads(body) for _, body in keyd.asked] == [
        {"label": "main", "even_default": True},
        {"label": "main"},
        {"label": "main"},
        {},
    ]


@pytest.mark.parametrize("arguments", [[], ["main", "--as-configured"]])
def test_a_default_that_is_none_or_two_is_a_usage_error(keyd, ask, arguments):
    assert ask("wallet", "default", *arguments).code == 2
    assert keyd.asked == []


def test_list_names_what_is_archived_and_what_is_damaged(keyd, ask):
    archived = api.Wallet(label="old", address=ADDRESS, created_at=0, default=False, archived=True)
    keyd.answers["wallet_list"] = api.WalletList(
        wallets=[archived], damaged=[api.DamagedWallet(label="x", problem="wallet 'x': the file is damaged")]
    )
    result = ask("wallet", "list")
    assert result.code == 0
    assert "archived" in result.out
    assert "keyctl: warning: wallet 'x': the file is damaged\n" in result.err


# -- export -----------------------------------------------------------------------------------------------


def export(keyd, out, typed: bytes) -> tuple[int, bytes]:
    """`keyctl wallet export main` on a terminal where somebody types."""
    command = [sys.executable, "-c", "from keyd.cli import main; main()", "--socket", str(keyd.socket)]
    command += ["wallet", "export", "main", "--out", str(out)]
    terminal, child_side = pty.openpty()
    shell = ["setsid", "--ctty", "--wait", *command]
    with subprocess.Popen(shell, stdin=child_side, stdout=child_side, stderr=child_side) as child:
        os.close(child_side)
        seen = b""
        for prompt, answer in zip((b"to go on", b"Passphrase", b"Repeat"), typed.split(b"|"), strict=False):
            while prompt not in seen:
                seen += os.read(terminal, 4096)
            os.write(terminal, answer + b"\n")
        try:
            while piece := os.read(terminal, 4096):
                seen += piece
        except OSError:  # the child's side is closed: that is how a terminal ends
            pass
        code = child.wait(240)
    os.close(terminal)
    return code, seen


def test_an_export_is_typed_encrypted_and_private(keyd, tmp_path):
    keyd.answers["wallet_export"] = api.WalletExported(label="main", address=ADDRESS, keystore={"version": 3})
    out = tmp_path / "keystore.json"
    code, seen = export(keyd, out, f"main|{PASSPHRASE}|{PASSPHRASE}".encode())
    assert code == 0, seen
    assert json.loads(out.read_text()) == {"version": 3}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert PASSPHRASE.encode() not in seen
    assert json.loads(keyd.asked[0][1]) == {"label": "main", "confirm": "main", "passphrase": PASSPHRASE}


def test_another_label_typed_exports_nothing(keyd, tmp_path):
    code, seen = export(keyd, tmp_path / "out", b"mian")
    assert (code, keyd.asked) == (1, [])
    assert b"nothing was exported" in seen
    assert not (tmp_path / "out").exists()


def test_without_a_terminal_nothing_is_exported(keyd, ask, tmp_path, passphrase_file):
    result = ask("wallet", "export", "main", "--out", tmp_path / "out", "--passphrase-file", passphrase_file)
    assert (result.code, keyd.asked) == (1, [])
    assert "has to be confirmed on a terminal" in result.err


# -- the key-encryption key -------------------------------------------------------------------------------


OLD_KEK = Kek(b"\x05" * 32)


def kek(source: str, next_: str | None = None, id_: str = "5a3c9d0e7f214b68") -> api.KekView:
    return api.KekView.model_validate({"source": source, "id": id_, "next": next_, "wallets": 2})


def test_kek_shows_what_is_under_way(keyd, ask):
    keyd.answers["kek"] = kek("credential", "0f6c2b917e537f3a")
    out = ask("wallet", "kek").out
    assert "key          5a3c9d0e7f214b68\n" in out
    assert "changing to  0f6c2b917e537f3a" in out


def test_a_key_under_a_passphrase_is_changed_with_one(keyd, ask, passphrase_file):
    keyd.answers |= {
        "kek": kek("passphrase"),
        "kek_rotate": api.KekRotated(id="0f6c2b917e537f3a", wallets=2, finished=True),
    }
    result = ask("wallet", "rotate-kek", "--passphrase-file", passphrase_file)
    assert result.out == "key 0f6c2b917e537f3a seals 2 wallets; the old one opens none of them\n"
    assert json.loads(keyd.asked[-1][1]) == {"passphrase": PASSPHRASE}


def test_a_credential_is_sealed_before_keyd_is_asked_and_put_in_force_after(keyd, ask, tmp_path, monkeypatch):
    credential, steps = tmp_path / "kek.cred", []
    credential.write_bytes(b"old")

    def seal(command, *, input=None, **_):  # noqa: A002 - subprocess's name
        if command[1] == "decrypt":
            return subprocess.CompletedProcess(command, 0, OLD_KEK.reveal(), b"")
        steps.append("sealed")
        assert command[:3] == ["systemd-creds", "encrypt", "--name=kek"]
        (tmp_path / "kek.cred.new").write_bytes(b"sealed " + input)
        return None

    def rotate(_):
        steps.append("asked")
        assert credential.read_bytes() == b"old"
        assert (tmp_path / "kek.cred.new").exists()
        return api.KekRotated(id="0f6c2b917e537f3a", wallets=2, finished=False)

    monkeypatch.setattr(kek_commands.subprocess, "run", seal)
    monkeypatch.setattr(kek_commands.os, "geteuid", lambda: 0)
    keyd.answers |= {"kek": kek("credential", id_=OLD_KEK.id), "kek_rotate": rotate}
    result = ask("wallet", "rotate-kek", "--credential", credential)
    assert (result.code, steps) == (0, ["sealed", "asked"])
    new = bytes.fromhex(json.loads(keyd.asked[-1][1])["new_kek"])
    assert credential.read_bytes() == b"sealed " + new
    assert "systemctl restart osmoda-keyd" in result.out
    assert new.hex() not in result.out + result.err


def test_a_credential_stays_if_keyd_refuses_or_nobody_may_replace_it(keyd, ask, tmp_path, monkeypatch):
    credential = tmp_path / "kek.cred"
    credential.write_bytes(b"old")
    keyd.answers |= {
        "kek": kek("credential", id_=OLD_KEK.id),
        "kek_rotate": api.Refusal(code="wallet_unreadable", detail="x", hint=""),
    }
    monkeypatch.setattr(kek_commands.os, "geteuid", lambda: 1000)
    assert "only root" in ask("wallet", "rotate-kek", "--credential", credential).err
    monkeypatch.setattr(kek_commands.os, "geteuid", lambda: 0)

    def systemd_creds(command, **_):
        (tmp_path / "kek.cred.new").write_bytes(b"new")
        return subprocess.CompletedProcess(command, 0, OLD_KEK.reveal(), b"")

    monkeypatch.setattr(kek_commands.subprocess, "run", systemd_creds)
    assert ask("wallet", "rotate-kek", "--credential", credential).code == 1
    assert credential.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("opened", "words"),
    [(None, "is no key that systemd-creds sealed"), (b"\x06" * 32, "holds another key")],
    ids=["not-sealed", "another-key"],
)
def test_a_file_that_is_not_keyds_sealed_key_is_never_replaced(
    keyd, ask, tmp_path, monkeypatch, opened, words
):
    """A key that another tool keeps in the clear, for one."""
    credential = tmp_path / "kek.cred"
    credential.write_bytes(b"old")

    def systemd_creds(command, **_):
        if opened is None:
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, 0, opened, b"")

    monkeypatch.setattr(kek_commands.subprocess, "run", systemd_creds)
    monkeypatch.setattr(kek_commands.os, "geteuid", lambda: 0)
    keyd.answers["kek"] = kek("credential", id_=OLD_KEK.id)
    result = ask("wallet", "rotate-kek", "--credential", credential)
    assert (result.code, credential.read_bytes()) == (1, b"old")
    assert words in result.err
    assert [name for name, _ in keyd.asked] == ["kek"]


# -- backups ----------------------------------------------------------------------------------------------


def made(keyd, content: bytes, step: int = 7) -> None:
    def part(request):
        offset = int(request.query["from"])
        return api.BackupPart(data=base64.b64encode(content[offset : offset + step]).decode())

    keyd.answers |= {
        "backup": api.BackupMade(id="7f3a0c5d9e1b", size=len(content), seq=9, hash="ab" * 32, wallets=2),
        "backup_part": part,
    }


def test_a_backup_is_fetched_in_parts_into_a_private_file(keyd, ask, tmp_path, passphrase_file):
    content = os.urandom(100)
    made(keyd, content)
    result = ask("backup", tmp_path / "b", "--passphrase-file", passphrase_file)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{tmp_path}/b: 2 wallets, 100 bytes\nledger head 9:{'ab' * 32}\n"
    assert (tmp_path / "b").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    again = ask("backup", tmp_path / "b", "--passphrase-file", passphrase_file)
    assert again.code == 1
    assert "exists" in again.err


def test_half_a_backup_is_none(keyd, ask, tmp_path, passphrase_file):
    made(keyd, b"x" * 100)
    keyd.answers["backup_part"] = api.BackupPart(data="")
    assert ask("backup", tmp_path / "b", "--passphrase-file", passphrase_file).code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"passphrase", "keyd.sock"}


def test_a_short_passphrase_is_refused_before_anything_is_made(keyd, ask, tmp_path, passphrase_file):
    passphrase_file.write_text("short\n")
    result = ask("backup", tmp_path / "b", "--passphrase-file", passphrase_file)
    assert (result.code, keyd.asked) == (1, [])
    assert "at least 12 characters" in result.err

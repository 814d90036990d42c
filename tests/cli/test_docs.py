"""The documents say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import keyd.config
import keyd.configfile
from egress.__main__ import main as osmoda_egress
from egress.config import EgressSettings
from keyd import api

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROTOCOL = (ROOT / "docs" / "keyd-protocol.md").read_text("utf-8")
EXAMPLES = re.findall(r"<!-- (\w+) -->\n```json\n(.*?)```", PROTOCOL, re.DOTALL)


@pytest.mark.parametrize(
    ("name", "example"), EXAMPLES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(EXAMPLES)]
)
def test_every_example_of_the_protocol_is_a_message_of_it(name, example):
    message: type[BaseModel] = getattr(api, name)
    message.model_validate_json(example)
    with pytest.raises(ValidationError):
        message.model_validate_json(example.replace("{", '{"unknown_member": 1,', 1))


def test_every_json_block_of_the_protocol_names_its_type():
    assert PROTOCOL.count("```json") == len(EXAMPLES) > len(api.ENDPOINTS)


def test_every_message_of_the_protocol_has_an_example():
    parts = {
        api.Message,
        api.Origin,
        api.Caller,
        api.Authorization,
        api.ExactPayload,
        api.SignInProof,
        api.DomainSpend,
        api.CallerSpend,
        api.SpendRow,
        api.LedgerHeadAt,
        api.BudgetView,
        api.BudgetChange,
        api.Proposal,
        api.QuotedOffer,
        api.RefusedPayment,
        api.PaymentView,
        api.PrepayView,
        api.OpenPayment,
        api.LedgerEntry,
        api.DamagedWallet,
        api.WalletToken,
    }
    messages = {
        kind for kind in vars(api).values() if isinstance(kind, type) and issubclass(kind, api.Message)
    }
    assert {name for name, _ in EXAMPLES} == {kind.__name__ for kind in messages - parts}


def test_the_protocol_names_every_endpoint_with_exactly_its_roles():
    table = dict(re.findall(r"^\| `([A-Z]+ /\S+)` \| (.*) \|$", PROTOCOL, re.MULTILINE))
    assert table == {f"{e.method} {e.path}": ", ".join(sorted(e.roles)) for e in api.ENDPOINTS.values()}
    for endpoint in table:
        assert f"## {endpoint}\n" in PROTOCOL
        path = re.escape(endpoint.split()[1]).replace(r"\{id\}", "([0-9a-f]{12,32}|default)")
        assert re.search(rf"http://keyd{path}(?=['?\s])", PROTOCOL), endpoint


def test_every_runtime_dependency_has_a_reason_and_every_reason_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["bridge"]]
    wanted = {re.split(r"[^A-Za-z0-9_.-]", requirement)[0] for requirement in requirements}
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE)) == wanted


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=lambda p: p.name
)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def readme_example(name: str) -> str:
    """The indented block that follows the line naming the file."""
    match = re.search(rf"^`/etc/osmoda/{name}`.*\n\n((?: {{4}}.*\n|\n)+)", README, re.MULTILINE)
    assert match is not None
    return textwrap.dedent(match[1])


def test_the_readmes_configuration_of_keyd_is_one(tmp_path):
    (tmp_path / "keyd.toml").write_text(readme_example("keyd.toml"))
    settings = keyd.config.load(tmp_path / "keyd.toml")
    assert str(settings.x402.allowed_domains[0]) == "api.example.com"
    assert settings.x402.daily_budget_usd == 1_000_000


def test_the_readmes_example_of_a_token_is_one(tmp_path):
    text = readme_example("keyd.toml").replace("0x…", "0x" + "11" * 20)
    (tmp_path / "keyd.toml").write_text(re.sub(r"^# ", "", text, flags=re.MULTILINE))
    assert keyd.config.load(tmp_path / "keyd.toml").assets[0].symbol == "USDX"


def test_the_readmes_configuration_of_egress_is_one(tmp_path):
    text = re.sub(r"^# ", "", readme_example("egress.toml"), flags=re.MULTILINE)
    (tmp_path / "egress.toml").write_text(text)
    keyd.configfile.load(EgressSettings, tmp_path / "egress.toml")


def test_the_option_that_keyctl_names_for_egress_exists():
    assert "--check" in {option for parameter in osmoda_egress.params for option in parameter.opts}


def generate(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "gen_docs.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_the_generated_pages_are_those_of_this_code():
    result = generate("--check")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_stale_page_is_shown_as_a_diff(tmp_path):
    for folder in ("tools", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tools" / "gen_docs.py").write_text((ROOT / "tools" / "gen_docs.py").read_text("utf-8"))
    command = [sys.executable, str(tmp_path / "tools" / "gen_docs.py")]
    subprocess.run(command, check=True, timeout=240)
    page = tmp_path / "docs" / "reasons.md"
    page.write_text(page.read_text("utf-8").replace("`budget_daily`", "`budget_monthly`"))
    result = subprocess.run([*command, "--check"], capture_output=True, text=True, timeout=240)
    assert result.returncode == 1
    assert "\n-| `budget_monthly`" in result.stdout
    assert "\n+| `budget_daily`" in result.stdout
    assert page.read_text("utf-8").count("budget_monthly") == 1

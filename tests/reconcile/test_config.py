"""The settings, and the page that explains them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from keyd.configfile import load
from reconcile.config import HookSettings, NetworkSettings, ReconcileSettings, server_name

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reconcile.md").read_text("utf-8")


def network(**members: Any) -> NetworkSettings:
    return NetworkSettings(**{"network": "eip155:8453", "rpc": ["https://rpc.example.com/v2/KEY"]} | members)


def test_all_servers_have_to_agree_unless_told_otherwise() -> None:
    three = [f"https://{name}.example.com" for name in "abc"]
    assert network(rpc=three).needed == 3
    assert network(rpc=three, agree=2).needed == 2


def test_the_chain_id_is_the_reference_of_the_network() -> None:
    assert network().chain_id == 8453


@pytest.mark.parametrize("host", ["127.0.0.1:8545", "127.9.9.9", "[::1]:8545", "localhost"])
def test_http_is_for_loopback(host: str) -> None:
    assert network(rpc=[f"http://{host}/"]).allow_http is False


@pytest.mark.parametrize(
    "host", ["192.168.1.2", "rpc.example.com", "127.0.0.1.example.com", "localhost.example.com"]
)
def test_http_to_elsewhere_has_to_be_allowed(host: str) -> None:
    with pytest.raises(ValidationError, match="allow_http"):
        network(rpc=[f"http://{host}/"])
    assert network(rpc=[f"http://{host}/"], allow_http=True).allow_http is True


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://rpc.example.com/v2/KEY?key=KEY", "rpc.example.com"),
        ("https://user:KEY@rpc.example.com:8443/", "rpc.example.com:8443"),
        ("http://[::1]:8545/KEY", "[::1]:8545"),
    ],
)
def test_a_server_is_named_by_its_host(url: str, name: str) -> None:
    assert server_name(url) == name
    assert "KEY" not in repr(network(rpc=[url]))


def documented(heading: str) -> dict[str, str]:
    """key → default, of the table below `heading`."""
    section = PAGE.split(f"\n### {heading}\n")[1].split("\n#")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE))


def defaults(model: type[BaseModel]) -> dict[str, str]:
    shown = {}
    for key, field in model.model_fields.items():
        value = str(field.default).lower() if isinstance(field.default, bool) else field.default
        words = {None: "all of them" if key == "agree" else "none", (): "none", HookSettings(): "nobody"}
        shown[key] = "required" if field.is_required() else words.get(value, f"`{value}`")
    return shown


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("Top level", ReconcileSettings),
        ("`[alerts]`, `[heads]`", HookSettings),
        ("`[[networks]]`", NetworkSettings),
    ],
)
def test_the_page_names_every_key_with_its_default(heading: str, model: type[BaseModel]) -> None:
    assert documented(heading) == defaults(model)


def test_the_example_of_the_page_is_a_configuration(tmp_path: Path) -> None:
    example = re.search(r"^`/etc/osmoda/reconcile.toml`.*\n\n((?: {4}.*\n|\n)+)", PAGE, re.MULTILINE)
    assert example is not None
    file = tmp_path / "reconcile.toml"
    file.write_text(textwrap.dedent(example[1]))
    settings = load(ReconcileSettings, file)
    assert [(n.network, len(n.rpc), n.needed) for n in settings.networks] == [("eip155:8453", 2, 2)]

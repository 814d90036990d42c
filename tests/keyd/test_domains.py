"""`allowed_domains` entries: what each form covers, and the near misses that it must not cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.api import Origin
from keyd.domains import DomainPattern, any_matches


def origin(url: str) -> Origin:
    scheme, _, authority = url.partition("://")
    host, _, port = authority.rpartition(":")
    assert scheme in ("http", "https")
    return Origin.model_validate({"scheme": scheme, "host": host.strip("[]"), "port": int(port)})


COVERED = [
    ("api.example.com", "https://api.example.com:443"),
    ("API.Example.COM", "https://api.example.com:443"),
    ("  api.example.com ", "https://api.example.com:443"),
    ("https://api.example.com", "https://api.example.com:443"),
    ("api.example.com:8443", "https://api.example.com:8443"),
    ("https://api.example.com:8443", "https://api.example.com:8443"),
    ("*.example.com", "https://api.example.com:443"),
    ("*.example.com", "https://a.b.example.com:443"),
    ("*.example.com:8443", "https://api.example.com:8443"),
    ("http://127.0.0.1:4021", "http://127.0.0.1:4021"),
    ("http://localhost", "http://localhost:80"),
    ("http://[::1]:4021", "http://[::1]:4021"),
    ("http://[0:0:0:0:0:0:0:1]:4021", "http://[::1]:4021"),
    ("bücher.example", "https://xn--bcher-kva.example:443"),
    ("BÜCHER.example", "https://xn--bcher-kva.example:443"),
    ("_dmarc.example.com", "https://_dmarc.example.com:443"),
    ("*", "https://api.example.com:443"),
    ("*", "https://127.0.0.1:4021"),
]
NOT_COVERED = [
    ("api.example.com", "http://api.example.com:80"),
    ("api.example.com", "http://api.example.com:443"),
    ("api.example.com", "https://api.example.com:8443"),
    ("api.example.com", "https://example.com:443"),
    ("api.example.com", "https://xapi.example.com:443"),
    ("api.example.com", "https://api.example.com.evil.org:443"),
    ("api.example.com", "https://sub.api.example.com:443"),
    ("api.example.com:8443", "https://api.example.com:443"),
    ("*.example.com", "https://example.com:443"),
    ("*.example.com", "https://evilexample.com:443"),
    ("*.example.com", "https://.example.com:443"),
    ("*.example.com", "https://api.example.com:8443"),
    ("*.example.com", "http://api.example.com:80"),
    ("http://127.0.0.1:4021", "http://127.0.0.1:4022"),
    ("http://127.0.0.1:4021", "https://127.0.0.1:4021"),
    ("http://127.0.0.1:4021", "http://localhost:4021"),
    ("*", "http://api.example.com:80"),
]


@pytest.mark.parametrize(("entry", "url"), COVERED)
def test_an_entry_covers_the_origins_it_names(entry: str, url: str) -> None:
    assert DomainPattern.parse(entry).matches(origin(url))


@pytest.mark.parametrize(("entry", "url"), NOT_COVERED)
def test_an_entry_covers_nothing_else(entry: str, url: str) -> None:
    assert not DomainPattern.parse(entry).matches(origin(url))


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        ("", "write `api.example.com`"),
        ("*.", "write `api.example.com`"),
        ("api.*.com", "write `api.example.com`"),
        ("**", "write `api.example.com`"),
        ("*:443", "write `api.example.com`"),
        ("api..example.com", "write `api.example.com`"),
        ("api.example.com.", "write `api.example.com`"),
        ("-api.example.com", "write `api.example.com`"),
        ("a" * 64 + ".example.com", "write `api.example.com`"),
        ("ftp://example.com", "unknown scheme 'ftp'"),
        ("https://example.com/path", "without a path"),
        ("https://user@example.com", "without a path or user"),
        ("example.com:", "not a number"),
        ("example.com:https", "not a number"),
        ("example.com:0", "between 1 and 65535"),
        ("example.com:65536", "between 1 and 65535"),
        ("::1", "brackets"),
        ("http://*.example.com", "host by host"),
        ("*.127.0.0.1", "no subdomains"),
    ],
)
def test_a_wrong_entry_is_refused_with_the_way_out(entry: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        DomainPattern.parse(entry)
    assert remedy in str(refusal.value)
    assert repr(entry) in str(refusal.value)


def test_an_empty_list_covers_nothing() -> None:
    assert not any_matches([], origin("https://api.example.com:443"))


def test_one_matching_entry_is_enough() -> None:
    patterns = [DomainPattern.parse(entry) for entry in ("other.example", "api.example.com")]
    assert any_matches(patterns, origin("https://api.example.com:443"))
    assert not any_matches(patterns, origin("https://third.example:443"))


@given(st.text(max_size=300))
def test_no_entry_raises_anything_but_value_error(entry: str) -> None:
    try:
        pattern = DomainPattern.parse(entry)
    except ValueError:
        return
    # Whatever was accepted covers the origin it spells, and never plain http unless it says so.
    assert pattern.scheme == "https" or entry.strip().lower().startswith("http://")


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("API.example.com", "api.example.com"),
        ("https://api.example.com:443", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("api.example.com:8443", "api.example.com:8443"),
        ("http://127.0.0.1:4021", "http://127.0.0.1:4021"),
        ("http://api.example.com", "http://api.example.com"),
        ("https://[0:0::1]:8443", "[::1]:8443"),
        ("*", "*"),
    ],
)
def test_a_pattern_is_written_as_the_shortest_entry_that_means_the_same(text: str, short: str) -> None:
    pattern = DomainPattern.parse(text)
    assert str(pattern) == short
    assert DomainPattern.parse(short) == pattern


@pytest.mark.parametrize(
    ("entry", "url", "denied"),
    [
        ("evil.example", "https://evil.example", True),
        ("evil.example", "https://evil.example:8443", True),
        ("evil.example", "http://evil.example", True),
        ("evil.example", "https://evil.example.", True),
        ("evil.example", "https://sub.evil.example", False),
        ("*.evil.example", "https://sub.evil.example:8443", True),
        ("*.evil.example", "https://evil.example", False),
        ("evil.example:8443", "https://evil.example:8443", True),
        ("evil.example:8443", "https://evil.example", False),
        ("http://evil.example:80", "https://evil.example", False),
        ("*", "http://anything.example:1234", True),
    ],
)
def test_a_denied_host_is_denied_on_every_port(entry: str, url: str, denied: bool) -> None:
    scheme, _, authority = url.partition("://")
    host, _, port = authority.partition(":")
    fields = {"scheme": scheme, "host": host, "port": int(port or {"http": 80, "https": 443}[scheme])}
    assert DomainPattern.parse(entry).denies(Origin.model_validate(fields)) is denied

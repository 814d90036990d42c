"""Who would be paid: the origin egress really connected to, or None if that is not beyond doubt."""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.net.http import url as http_url

from egress.reach.destinations import normal_host, origin_of
from keyd.api import Origin


def connected_origin(server: Server) -> Origin | None:
    """The origin behind an upstream connection.

    For https the name in its certificate was verified against the SNI, so the SNI has to be the host that was
    connected to: otherwise the policy would judge one name and another one would be paid.
    """
    if server.address is None:
        return None
    host, port = server.address[0], server.address[1]
    if not server.tls:
        return origin_of("http", host, port)
    if not server.tls_established or server.sni is None or normal_host(server.sni) != normal_host(host):
        return None
    return origin_of("https", host, port)


def names_origin(request: http.Request, origin: Origin) -> bool:
    """Whether the request's own Host or :authority, if it has one, names `origin`.

    Behind one certificate a CDN serves many sellers by Host: a request that names another one than was
    connected to would let the policy's yes for the first pay the second.
    """
    named = [request.authority] if request.authority else []
    named += request.headers.get_all("host")
    return all(_authority_is(authority, origin) for authority in named)


def _authority_is(authority: str, origin: Origin) -> bool:
    try:
        host, port = http_url.parse_authority(authority, check=True)
    except ValueError:
        return False
    default = 443 if origin.scheme == "https" else 80
    return normal_host(host) == origin.host and (port or default) == origin.port

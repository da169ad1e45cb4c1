"""Who may use the API: the host's own names and passwords, and no web page of another site.

A browser sends requests of any page to any address, also to this machine's. What it says about the page (``Origin``,
``Sec-Fetch-Site``) cannot be forged by the page. Programs such as curl send neither, and are not stopped here.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import compare_digest
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_LOCAL_SUFFIXES = (
    *(".localhost", ".local", ".lan", ".home", ".internal", ".intranet", ".private", ".corp", ".localdomain"),
    *(".home.arpa", ".fritz.box"),
)
"""Ends of host names that nobody can register, so that no other site can point one to this machine."""

_TUNNEL_SUFFIXES = (
    *(".gradio.live", ".gradio.app", ".ngrok.io", ".ngrok.app", ".ngrok.dev", ".ngrok-free.app", ".ngrok-free.dev"),
    *(
        ".trycloudflare.com",
        ".ts.net",
        ".loca.lt",
        ".lhr.life",
        ".devtunnels.ms",
        ".app.github.dev",
        ".githubpreview.dev",
    ),
    *(
        ".proxy.runpod.net",
        ".googleusercontent.com",
        ".kaggle.net",
        ".hf.space",
        ".paperspacegradient.com",
        ".litng.ai",
    ),
    *(".pinggy.link", ".pinggy.online", ".serveo.net", ".serveousercontent.com", ".zrok.io", ".bore.pub", ".modal.run"),
)
"""Ends of host names of services that forward to a machine. They answer the name themselves: it leads only to them."""

_SAFE_METHODS = ("GET", "HEAD")
_PORT = re.compile(r":(\d{1,5})?$")
_DEFAULT_PORTS = {"http": "80", "https": "443"}

FOREIGN_PAGE = (
    "A web page of another site sent this request, so nothing was done: if it is yours, start the WebUI with "
    "--cors-allow-origins and its address."
)
FOREIGN_HOST = (
    "The address of this request is not known to be this machine's, so it was not answered: use localhost or an IP address, "
    "or start the WebUI with --cors-allow-origins and the address, such as https://example.org, or with --api-auth."
)


class Refusal(NamedTuple):
    """Why a request is not answered."""

    status: int
    detail: str
    headers: Mapping[str, str] = {}


@dataclass(frozen=True)
class Access:
    """Who may use the API of one host."""

    credentials: Mapping[str, str]
    """Passwords by name."""
    asks: bool = False
    """Whether the host asks for a name and a password."""
    origins: tuple[str, ...] = ()
    """Other sites that may use it, as ``https://example.org``; ``"*"`` is every site."""
    origin_pattern: str | None = None
    """A regular expression that other sites' whole addresses may match."""
    names: frozenset[str] = frozenset()
    """Names of this machine, besides those that are always its own."""
    any_name: bool = False
    """Whether the host's name in a request does not matter."""

    @classmethod
    def of(cls, api_auth: str | None, flags: Any = None) -> Access:
        """What the host's command line says.

        Args:
            api_auth: The host's ``--api-auth``: ``name:password`` pairs, separated by commas.
            flags: The host's parsed command line.
        """
        credentials = dict(pair.strip().split(":", 1) for pair in (api_auth or "").split(",") if ":" in pair)
        listed = str(getattr(flags, "cors_allow_origins", None) or getattr(flags, "cors_origins", None) or "")
        origins = tuple(one.strip().rstrip("/").lower() for one in listed.split(",") if one.strip())
        pattern = getattr(flags, "cors_allow_origins_regex", None) or getattr(flags, "cors_regex", None)
        names = {platform.node(), str(getattr(flags, "server_name", None) or "")}
        names |= {urlsplit(one).hostname or "" for one in origins}
        options = getattr(flags, "ngrok_options", None)
        if isinstance(options, dict):
            names |= {str(options.get(key) or "") for key in ("domain", "hostname")}
        # A page that reaches this machine under a name of its own has no password to send, and no certificate for TLS.
        asks = bool(api_auth)  # also if no pair can be read: then nobody is let in
        any_name = bool(asks or getattr(flags, "tls_certfile", None) or "*" in origins)
        return cls(
            credentials,
            asks,
            origins,
            str(pattern) if pattern else None,
            frozenset(_plain(name) for name in names if name),
            any_name,
        )

    def refusal(self, method: str, headers: Mapping[str, str], *, works: bool = False) -> Refusal | None:
        """Why a request is not answered; ``None`` if it is.

        Args:
            method: Its method.
            headers: Its headers, by lower-case name.
            works: Whether the route changes or builds something although its method is GET.
        """
        if not self.knows_host(headers.get("host", "")):
            return Refusal(403, FOREIGN_HOST)
        if self.is_of_another_site(headers, harmless=method in _SAFE_METHODS and not works):
            return Refusal(403, FOREIGN_PAGE)
        if self.asks and not self._authorized(headers.get("authorization", "")):
            return Refusal(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})
        return None

    def knows_host(self, host: str) -> bool:
        """Whether ``host``, a request's Host header, is a name or an address of this machine.

        A page of another site may have its own name point to this machine; the browser then takes the API for the page's own.
        """
        name = _plain(_PORT.sub("", host.strip()))
        if self.any_name or name == "" or "." not in name:  # without a dot it is of the local network
            return True
        if name in self.names or f".{name}".endswith(_LOCAL_SUFFIXES + _TUNNEL_SUFFIXES):
            return True
        if self.origin_pattern is not None and any(self._matches(f"{one}://{host}") for one in _DEFAULT_PORTS):
            return True
        return _is_address(name)

    def is_of_another_site(self, headers: Mapping[str, str], *, harmless: bool = False) -> bool:
        """Whether a web page of another site sent a request, and may not.

        Args:
            headers: Its headers, by lower-case name.
            harmless: Whether it changes nothing; then a link may have been followed.
        """
        site = headers.get("sec-fetch-site", "").strip().lower()
        origin = headers.get("origin", "").strip().lower()
        if origin and self._allowed(origin):
            return False
        if site not in ("", "same-origin", "none"):
            # The answer to a link that was followed is shown to nobody else.
            followed = (
                headers.get("sec-fetch-mode", "") == "navigate" and headers.get("sec-fetch-dest", "") == "document"
            )
            return not (harmless and followed)
        # Where the browser says it, it is so, also behind a proxy that gives the host another name.
        return site != "same-origin" and bool(origin) and not _same_host(origin, headers)

    def _allowed(self, origin: str) -> bool:
        return "*" in self.origins or origin in self.origins or self._matches(origin)

    def _matches(self, origin: str) -> bool:
        if self.origin_pattern is None:
            return False
        try:
            return re.fullmatch(self.origin_pattern, origin) is not None
        except re.error:
            return False

    def _authorized(self, header: str) -> bool:
        scheme, _, encoded = header.partition(" ")
        if scheme.lower() != "basic" or len(encoded) > 4096:
            return False
        try:
            name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return False
        known = self.credentials.get(name)
        return bool(colon) and known is not None and compare_digest(password.encode(), known.encode())


def _same_host(origin: str, headers: Mapping[str, str]) -> bool:
    """Whether ``origin`` is the address that the request was sent to. A proxy may say in a header which one that was."""
    scheme, separator, place = origin.partition("://")
    if not separator:
        return False  # "null": a sandboxed page, a local file
    wanted = _with_port(place, scheme)
    # Pages of other sites cannot send this header without asking first.
    for host in (headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")):
        host = host.strip().lower()
        if not host:
            continue
        if _with_port(host, scheme) == wanted:
            return True
        # Proxies often leave the port out.
        if not _PORT.search(host) and _plain(_PORT.sub("", place)) == _plain(host):
            return True
    return False


def _with_port(place: str, scheme: str) -> tuple[str, str]:
    port = _PORT.search(place)
    return _plain(_PORT.sub("", place)), (port and port[1]) or _DEFAULT_PORTS.get(scheme, "")


def _plain(name: str) -> str:
    return name.strip().lower().rstrip(".").strip("[]")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True

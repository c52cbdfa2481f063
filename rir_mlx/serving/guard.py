"""Who may ask: checked for every request before anything of it is read.

- The Host must be this server's: an address, `localhost` or a name that was given. A page whose name was rebound to
  this address has a name of its own there.
- A request that a page makes must come from this server's own page: its Origin is the Host. No CORS header is sent.
- With a key, everything but the health check and the pages asks for `Authorization: Bearer KEY`. Keys are compared in
  constant time, and wrong ones are answered more and more slowly.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rir_mlx.serving.http import error_response

_NAMES = ("page.css", "start.js", "page.js", "try.js", "table.js", "review.js")
FILES = {"/": "index.html", **{f"/{name}": name for name in _NAMES}}
"""The page's files by their path."""
OPEN = frozenset({"/health", "/docs", "/openapi.json", *FILES})
"""What needs no key. Nothing of it tells a text or a label."""
REPORT = "/report/"
"""Begins the report's path. It ends in a secret, which is known to who has the key."""
_FIRST_DELAY, _LONGEST_DELAY = 0.25, 8.0
_ADDRESSES, _DELAYED, _FORGET = 1024, 64, 600.0
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     b"img-src 'self' data:; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
]  # fmt: skip

OnRequest = Callable[[str, str, int, float], None]
"""Gets the method, path, status and seconds of each request; never a text."""


@dataclass(frozen=True)
class Policy:
    """`names` are host names of this server beside addresses and `localhost`; without a `key` everybody may ask."""

    names: frozenset[str] = frozenset()
    key: str | None = field(default=None, repr=False)

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = host_name(host)
        return name is not None and (name in self.names or name == "localhost" or is_address(name))

    def is_key(self, authorization: str) -> bool:
        if self.key is None:
            return True
        scheme, _, given = authorization.partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self.key.encode())
        return right and scheme.lower() == "bearer"


class Guard:
    """ASGI middleware that refuses what the policy forbids, and reports each request."""

    def __init__(self, app: ASGIApp, policy: Policy, on_request: OnRequest | None = None) -> None:
        self.app, self.policy, self.on_request = app, policy, on_request
        self.slowdown = Slowdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = message.get("headers", [])
                own = {name.lower() for name, _ in given}
                message["headers"] = [*given, *((name, value) for name, value in _HEADERS if name not in own)]
            await send(message)

        try:
            refused = await self._refusal(scope)
            await (refused or self.app)(scope, receive, watched)
        finally:
            if self.on_request is not None:
                self.on_request(scope["method"], scope["path"], status, time.monotonic() - begun)

    async def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = _headers(scope["headers"])
        if "transfer-encoding" in headers and "content-length" in headers:  # RFC 9112, section 6.1
            twice, close = "The length of the body is given twice.", {"Connection": "close"}
            return error_response(400, twice, "invalid_request_error", headers=close)
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or not self.policy.is_own(hosts[0]):
            return error_response(
                403, "This server does not go by that host name; --allow-host adds one.", "permission_error"
            )
        if origins and not (len(origins) == 1 and _same_origin(origins[0], hosts[0])):
            return error_response(403, "Pages of other sites may not use this server.", "permission_error")
        if scope["path"] in OPEN or scope["path"].startswith(REPORT) or self.policy.key is None:
            return None
        if self.policy.is_key(headers.get("authorization", [""])[0]):
            return None
        client = scope.get("client")
        if not await self.slowdown.wait(client[0] if client else ""):
            return error_response(429, "Too many wrong keys.", "rate_limit_error", headers={"Retry-After": "60"})
        return error_response(
            401,
            "The API key is missing or wrong: send `Authorization: Bearer KEY`.",
            "authentication_error",
            headers={"WWW-Authenticate": "Bearer"},
        )


class Slowdown:
    """Makes each wrong key of an address wait twice as long as the one before."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._waiting = 0

    async def wait(self, address: str) -> bool:
        """Wait before a wrong key is answered. False if so many wait already that this one is refused at once."""
        if self._waiting >= _DELAYED:
            return False
        seconds = self.delay(address, time.monotonic())
        self._waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1
        return True

    def delay(self, address: str, now: float) -> float:
        """Seconds to wait for one more wrong key of an address. Ten minutes without one are forgiven."""
        count, last = self._wrong.pop(address, (0, now))
        count = 1 if now - last > _FORGET else count + 1
        self._wrong[address] = count, now
        if len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)
        return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(count - 1, 16)))


def host_name(host: str) -> str | None:
    """The name of a Host header in lower case, without its port; None if it is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    plain = not (parts.path or parts.query or parts.fragment or parts.username or parts.password)
    return parts.hostname.rstrip(".") if plain and parts.hostname else None


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def _same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in raw:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found

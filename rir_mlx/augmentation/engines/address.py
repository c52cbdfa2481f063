"""Where a model is served, and how it is asked."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field

import httpx2

from rir_mlx.errors import UserError
from rir_mlx.recipe.schema import AugmentSection


@dataclass(frozen=True)
class Server:
    """Where a model is served, and how it is asked.

    `/chat/completions` is appended to `base_url`. `model` None stands for the only model that the server lists.
    `concurrency` requests run at once, each for at most `timeout` seconds. A request is repeated `retries` times where
    the server is busy or gone, `request_retries` times where the request alone may be at fault. The key is read from
    the environment variable `key_variable`, and only where the user named the host (`trusted`). `omitted` parameters
    are never sent.

    Raises UserError for an address that cannot be used."""

    base_url: str = field(repr=False)  # its query may hold a secret
    model: str | None = None
    concurrency: int = AugmentSection.model_fields["concurrency"].default
    timeout: float = AugmentSection.model_fields["timeout"].default
    retries: int = 6
    request_retries: int = 3
    key_variable: str = "OPENAI_API_KEY"
    trusted: bool = True
    omitted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise UserError(f"concurrency is {self.concurrency}.", hint="Give 1 or more.")
        possible = _is_name(self.url.raw_host) and 0 < (self.url.port or 1) < 65536
        if not possible or self.url.scheme not in ("http", "https"):
            found = repr(self.base_url) if "@" not in self.base_url else "The address"
            raise UserError(
                f"{found} is no http or https address.", hint="Write base_url like http://127.0.0.1:8080/v1."
            )
        if self.url.userinfo or self.url.query:
            raise UserError(
                f"base_url holds a user, a password or a query for {self.url.host}.",
                hint=f"Take it out, and set the environment variable {self.key_variable} to the server's key.",
            )

    @property
    def url(self) -> httpx2.URL:
        url = _parsed(self.base_url)
        return url.copy_with(path=url.path.rstrip("/") or "/", fragment=None)

    @property
    def shown(self) -> str:
        """The address for messages and rows, without its query."""
        return str(self.url.copy_with(query=None)).rstrip("/")

    @property
    def remote(self) -> bool:
        """Whether texts leave this machine."""
        host = self.url.host
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"

    @property
    def likely_address(self) -> str:
        """A hint with the probable address."""
        if self.url.path.rstrip("/").endswith("/v1"):
            return "Give the address that /chat/completions is appended to, like http://127.0.0.1:8080/v1."
        return f"The address of most servers ends in /v1: try {self.shown}/v1."

    def read_key(self) -> str:
        """The key, or an empty string. Raises UserError if no header can hold it."""
        key = os.environ.get(self.key_variable, "").strip() if self.trusted else ""
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise UserError(
                f"The environment variable {self.key_variable} holds characters that are not allowed in a key.",
                hint="Copy the key once more.",
            )
        return key


def is_same_server(address: str, other: str) -> bool:
    """Whether requests to both addresses go to the same host and port in the same way, as the HTTP library reads
    them."""
    one, two = _parsed(address), _parsed(other)
    return bool(one.raw_host) and (one.scheme, one.raw_host, one.port) == (two.scheme, two.raw_host, two.port)


def _is_name(host: bytes) -> bool:
    """Whether the look-up of names takes a host: no part of it may be empty or long."""
    try:
        return bool(host.decode("ascii").encode("idna"))
    except UnicodeError:
        return False


def _parsed(address: str) -> httpx2.URL:
    """The address, or an empty one if it is none."""
    try:
        return httpx2.URL(address.strip())
    except httpx2.InvalidURL:
        return httpx2.URL("")

"""Rate limits, as servers word them: how long to wait, and whether waiting helps."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

LONGEST_WAIT = 900.0
"""The longest pause, in seconds, that a server may ask for; beyond it the job ends."""
_SPENT = re.compile(r"per[ _-]?(?:day|month)|daily|monthly|\b[rt]pd\b", re.IGNORECASE)
_UNPAID = re.compile(r"insufficient_quota|exceeded your current quota|billing|credit", re.IGNORECASE)
"""Limits that a pause of minutes does not lift. The second kind of words also stands beside limits per minute."""
_ADDRESS = re.compile(r"\S+://\S+")
_IN_WORDS = re.compile(
    r"(?:try again|retry|wait|reset\w*)(?: again)?(?: in| after| for| at least)? (?:about )?"
    r"((?:[\d.]+ ?(?:h|ms|m|s)\w* ?)+)",
    re.IGNORECASE,
)
_RESET = re.compile(r"\b(?:reset|t)=(\d+)")
"""In the header that https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ describes."""
_DURATION = re.compile(r"([\d.]+) ?(ms|h|m|s)", re.IGNORECASE)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_EPOCH = 1e9
"""Greater numbers of seconds are a point in time, in Unix time."""


def is_exhausted(message: str, code: object = None) -> bool:
    """Whether a refusal speaks of a quota or a daily limit. A message that names a short wait speaks of a limit per
    minute, though it may advertise a way to pay for more."""
    message = _ADDRESS.sub("", message)
    if code == "insufficient_quota" or _SPENT.search(message):
        return True
    return not 0 < wait_in_words(message) <= LONGEST_WAIT and _UNPAID.search(message) is not None


def retry_after(response: httpx2.Response, message: str = "") -> float:
    """Seconds to wait after a request beyond a limit; 0 if nothing names a time.

    Where no wait is asked for, the headers that count requests or tokens say when they start again: OpenAI's and Groq's
    as a duration, others in seconds or as a point in time. Those of a limit that is not used up do not count."""
    if asked := asked_wait(response, message):
        return asked
    headers = response.headers
    names = [
        f"{limit}-reset{kind}"
        for limit in ("ratelimit", "x-ratelimit")
        for kind in ("", "-requests", "-tokens")
        if headers.get(f"{limit}-remaining{kind}", "0") == "0"
    ]
    times = [headers.get(name, "") for name in names] + _RESET.findall(headers.get("ratelimit", ""))
    return max(map(_time_named, times), default=0.0)


def asked_wait(response: httpx2.Response, message: str = "") -> float:
    """Seconds to wait before another request, as the server asks in a header or its message; 0 if it names none.

    `retry-after-ms` holds milliseconds; `retry-after` seconds or a date (RFC 9110, section 10.2.3), by some servers
    also a duration (`1m30s`)."""
    headers = response.headers
    if milliseconds := _number(headers.get("retry-after-ms", "")):
        return milliseconds / 1000
    value = headers.get("retry-after", "").strip()
    if value:
        return _time_named(value) or max(map(_time_named, value.split(",")))
    return wait_in_words(message)


def _time_named(value: str) -> float:
    """Seconds until the time that a header names: a number, a duration, or a date; 0 if it is past or none of them."""
    value = value.strip()
    if seconds := _number(value):
        if seconds > _EPOCH:  # a point in time, in seconds or milliseconds
            return max(0.0, (seconds / 1000 if seconds > 1000 * _EPOCH else seconds) - time.time())
        return seconds
    if re.fullmatch(rf"(?:{_DURATION.pattern}\s*)+", value, re.IGNORECASE):
        return _duration(value)
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        with suppress(ValueError, TypeError, OverflowError):
            date = read(value)
            return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
    return 0.0


def _number(value: str) -> float:
    """A number above 0, else 0."""
    try:
        number = float(value)
    except ValueError:
        return 0.0
    return number if 0 < number < float("inf") else 0.0


def wait_in_words(message: str) -> float:
    """Seconds in a sentence like "Please try again in 1m2.5s."."""
    found = _IN_WORDS.search(message)
    return _duration(found[1]) if found else 0.0


def _duration(text: str) -> float:
    return sum(_number(amount) * _UNITS[unit.lower()] for amount, unit in _DURATION.findall(text))

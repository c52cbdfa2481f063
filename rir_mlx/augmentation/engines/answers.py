"""The answers and errors of an OpenAI-compatible server, parsed. Does not handle connections."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from rir_mlx.augmentation.model_output import answer_of, holds_special_token
from rir_mlx.json_text import parse_json
from rir_mlx.types import FinishReason

_BUSY = frozenset({408, 409, 425, 503})
"""The server is not ready for any request."""
_REQUESTS_FAULT = frozenset({400, 413, 422, 451})
"""A context that is too long, a content filter: another request may do better."""
_FILTERED = re.compile(r"moderat|flagged|content.?(?:policy|filter|management)|safety|guardrail", re.IGNORECASE)
_REFUSED = re.compile(r"filter|safety|refus|recitation|block|prohibit|guardrail|moderat|policy|spii")
_CUT = re.compile(r"length|max|limit|window|abort|cancel|time.?out|insufficient|interrupt|incomplete|repetition|pause")
"""Words in the reasons for which an answer ended, in small letters: refused by a filter, and not at its end."""
_EXHAUSTED = re.compile(
    r"insufficient_quota|exceeded your current quota|billing|credit|per[ _-]?day|daily|\b[rt]pd\b|monthly",
    re.IGNORECASE,
)
"""Limits that a pause of minutes does not lift."""
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
THOUGHTS = "<think>"
"""Recorded in the journal for an answer that is only thoughts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The text of an answer without thoughts and end tokens. `tokens` as the server counts them, if it does.
    `control`: a control token stands inside the text."""

    text: str
    finish_reason: FinishReason
    tokens: int | None
    control: bool = False


class Unreached(Exception):
    """Nothing listens at the address."""


class ServerBusy(Exception):
    """The server is not ready for any request."""


class RateLimited(Exception):
    """Too many requests. `wait`: seconds that the server asks for, 0 if it names none. `exhausted`: a quota or daily
    limit, which a pause does not lift."""

    def __init__(self, what: str, wait: float = 0.0, *, exhausted: bool = False) -> None:
        super().__init__(what)
        self.wait, self.exhausted = wait, exhausted


class RequestFailed(Exception):
    """An error that may be this request's alone: status 500, no answer in time, an answer without a message."""


class NotAnAnswer(Exception):
    """What a server of this protocol never sends: a web page, a stream, an object of another kind."""


class RequestRefused(Exception):
    """The server works but refuses this request: too long, or against its rules."""


class NotFound(Exception):
    """The server knows no such path or model."""


class Unauthorised(Exception):
    """The server wants a key, or a different key."""


class Unusable(Exception):
    """A refusal that applies to every request: a redirect, payment required, a method that is not allowed."""


class UnknownParameter(Exception):
    """The server does not take these parameters of the request."""

    def __init__(self, what: str, names: frozenset[str]) -> None:
        super().__init__(what)
        self.names = names


def object_in(response: httpx2.Response) -> dict[str, Any]:
    """The JSON object of a successful response. Raises NotAnAnswer."""
    kind = response.headers.get("content-type", "")
    if "text/event-stream" in kind or response.content.lstrip()[:5] == b"data:":
        raise NotAnAnswer(f"a stream of events, which was not asked for: {response.text}")
    try:
        data = parse_json(response.content)
    except ValueError:
        page = " (a web page)" if "html" in kind or response.content.lstrip()[:1] == b"<" else ""
        raise NotAnAnswer(f"an answer that is no JSON object{page}: {response.text}") from None
    if not isinstance(data, dict):
        raise NotAnAnswer(f"an answer that is no JSON object: {data}")
    return data


def read_answer(data: dict[str, Any]) -> Answer:
    """The answer in the object that a server sent.

    Raises RequestFailed if there is none, RequestRefused if a content filter or the model refused, RateLimited and
    others for an error with a status, and NotAnAnswer for an object of another protocol."""
    choices = data.get("choices")
    if not choices and (error := data.get("error") or _bare_error(data)):
        raise _error_inside(error)
    if not isinstance(choices, list):
        raise NotAnAnswer(f"an answer without a message: {data}")
    choice = choices[0] if choices else None
    if not isinstance(choice, dict) or not isinstance(message := choice.get("message"), dict):
        raise RequestFailed(f"an answer without a message: {data}")
    reason = str(choice.get("finish_reason") or "").lower()
    if choice.get("error") or reason == "error":
        raise RequestFailed(f"an error in place of an answer: {choice.get('error') or data}")
    if _REFUSED.search(reason):
        raise RequestRefused(f"the server's content filter stopped the answer ({reason})")
    text = _text_of(message.get("content"))
    if not text.strip() and (refusal := message.get("refusal") or _refusal_in(message.get("content"))):
        raise RequestRefused(f"the model refused: {refusal}")
    beside = [message[name] for name in _BESIDE if message.get(name)]
    whole = text.encode("utf-8", "replace").decode("utf-8")  # no tokenizer accepts JSON's unpaired surrogates
    found = answer_of(whole)
    if found is None or (not found and (beside or _thoughts_alone(message.get("content")))):
        found = THOUGHTS if found is not None else whole
    elif any(isinstance(thought, str) and thought.strip() == text.strip() for thought in beside):
        found = THOUGHTS  # some servers put a thought that does not end into both places
    tokens = (data.get("usage") or {}).get("completion_tokens") if isinstance(data.get("usage"), dict) else None
    finish: FinishReason = "length" if _CUT.search(reason) else "stop"
    counted = tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0 else None
    return Answer(found, finish, counted, holds_special_token(found))


_BESIDE = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks")
"""Where a message holds its thoughts beside the content."""


def _bare_error(data: dict[str, Any]) -> Any:
    """An error that is the whole object: `{"object": "error", …}` or `{"code": 429, "message": …}`."""
    return data if data.get("object") == "error" or (data.get("code") and data.get("message")) else None


def _text_of(content: Any) -> str:
    """A message's content as text. Parts of a list are joined; parts with thoughts are left out."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not all(isinstance(part, str | dict) for part in content):
        raise RequestFailed(f"a message whose content is no text: {content}")
    texts = [part if isinstance(part, str) else part.get("text") for part in content if not _is_thought(part)]
    return "".join(text for text in texts if isinstance(text, str))


def _is_thought(part: Any) -> bool:
    return isinstance(part, dict) and str(part.get("type", "")).lower() in (
        *("thinking", "reasoning", "reasoning_content", "redacted_thinking", "thought"),
    )


def _refusal_in(content: Any) -> Any:
    """The refusal among a message's parts, if there is one."""
    parts = content if isinstance(content, list) else []
    return next((part["refusal"] for part in parts if isinstance(part, dict) and part.get("refusal")), None)


def _thoughts_alone(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and all(map(_is_thought, content))


def _error_inside(error: Any) -> Exception:
    """An error in an answer with status 200; some gateways put its status inside."""
    message, code = _message_of({"error": error}) or (str(error), None)
    what, status = f"an error in place of an answer: {message}", str(code)
    if status == "429" or _is_exhausted("", code):
        return RateLimited(what, _wait_in_words(message), exhausted=_is_exhausted(message, code))
    if status in ("401", "403") and not _FILTERED.search(message):
        return Unauthorised(what)
    if status in ("404", "model_not_found"):
        return NotFound(what)
    if status in map(str, _REQUESTS_FAULT) or status == "content_filter":
        return RequestRefused(what)
    return RequestFailed(what)


def problem_of(response: httpx2.Response, sent: frozenset[str] = frozenset()) -> Exception:
    """The error for an unsuccessful response. `sent` are the request's optional parameters."""
    status, (message, code) = response.status_code, _said(response)
    what = f"status {status}: {message}"
    if status == 429:
        return RateLimited(what, retry_after(response, message), exhausted=_is_exhausted(message, code))
    if status in _BUSY:
        return ServerBusy(what)
    if status >= 500:
        return RequestFailed(what)
    if status in (401, 403):  # a gateway's moderation speaks of one text
        return RequestRefused(what) if status == 403 and _FILTERED.search(response.text) else Unauthorised(what)
    if status in (400, 422) and (names := unknown_parameters(response, sent)):
        return UnknownParameter(what, names)
    if status == 404 or code == "model_not_found":
        return NotFound(what)
    return RequestRefused(what) if status in _REQUESTS_FAULT else Unusable(what)


_NOT_TAKEN = re.compile(
    r"unsupported|not supported|does not support|doesn't support|unknown|unrecogni[sz]ed|unexpected|not permitted"
    r"|not allowed|extra_forbidden|extra inputs|extra fields|not a valid (?:field|parameter)|no longer|deprecated"
    r"|only the default|is not available|\bremoved\b|use ['\"`]?max_completion_tokens",
    re.IGNORECASE,
)


_NOT_BOTH = re.compile(r"temperature\W+and\W+top_p\W.*\b(?:both|together)\b", re.IGNORECASE)


def unknown_parameters(response: httpx2.Response, sent: frozenset[str]) -> frozenset[str]:
    """The parameters among `sent` that a refusal names as unsupported."""
    text = response.text
    if "temperature" in sent and "top_p" in sent and _NOT_BOTH.search(text):
        return frozenset({"top_p"})
    if not _NOT_TAKEN.search(text):
        return frozenset()
    try:
        body = parse_json(response.content)
        error = (body[0] if isinstance(body, list) else body).get("error")
    except (ValueError, AttributeError, IndexError):
        error = None
    named = error.get("param") if isinstance(error, dict) else None
    if isinstance(named, str) and (name := named.rpartition(".")[2]) in sent:
        return frozenset({name})
    return frozenset(name for name in sent if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text))


def retry_after(response: httpx2.Response, message: str = "") -> float:
    """Seconds to wait before another request, from the headers or the message; 0 if neither names a time.

    `retry-after-ms` holds milliseconds; `retry-after` seconds or a date (RFC 9110, section 10.2.3), by some servers
    also a duration (`1m30s`). Where it is missing, the headers that count requests or tokens say when they start again:
    OpenAI's and Groq's as a duration, others in seconds or as a point in time."""
    headers = response.headers
    if milliseconds := _number(headers.get("retry-after-ms", "")):
        return milliseconds / 1000
    value = headers.get("retry-after", "").strip()
    if value:
        return _time_named(value) or max(map(_time_named, value.split(",")))
    if named := _wait_in_words(message):
        return named
    used_up = [kind for kind in ("requests", "tokens") if headers.get(f"x-ratelimit-remaining-{kind}", "0") == "0"]
    names = [*(f"x-ratelimit-reset-{kind}" for kind in used_up), "ratelimit-reset", "x-ratelimit-reset"]
    times = [headers.get(name, "") for name in names] + _RESET.findall(headers.get("ratelimit", ""))
    return max(map(_time_named, times))


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


def _wait_in_words(message: str) -> float:
    """Seconds in a sentence like "Please try again in 1m2.5s."."""
    found = _IN_WORDS.search(message)
    return _duration(found[1]) if found else 0.0


def _duration(text: str) -> float:
    return sum(_number(amount) * _UNITS[unit.lower()] for amount, unit in _DURATION.findall(text))


def _is_exhausted(message: str, code: object) -> bool:
    return code == "insufficient_quota" or _EXHAUSTED.search(message) is not None


def _said(response: httpx2.Response) -> tuple[str, object]:
    """The message and the code of a server's refusal."""
    if response.has_redirect_location:
        return f"a redirect to {response.headers['location']}, which is not followed", None
    try:
        return _message_of(parse_json(response.content)) or (response.text, None)
    except ValueError:
        return response.text, None


def _message_of(data: Any) -> tuple[str, object] | None:
    """The message and the code in the body of an error: an object, or a list of one, as Google's servers send it."""
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    if isinstance(error, dict):
        return str(error.get("message")), error.get("code") or error.get("type")
    if error:
        return str(error), data.get("code")
    message = next((data[name] for name in ("message", "detail") if data.get(name)), None)
    return (str(message), data.get("code")) if message else None

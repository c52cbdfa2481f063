"""The answers and errors of an OpenAI-compatible server, parsed. Does not handle connections."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx2

from rir_mlx.augmentation.engines.limits import asked_wait, is_exhausted, retry_after, wait_in_words
from rir_mlx.augmentation.model_output import MOST_TOKENS, answer_of, holds_special_token
from rir_mlx.json_text import parse_json
from rir_mlx.types import FinishReason

_BUSY = frozenset({408, 409, 425, 498, 503, 529})
"""The server is not ready for any request."""
_GATEWAY = frozenset({502, 504, *range(520, 525)})
"""What stands behind a gateway does not answer; 520 to 524 are Cloudflare's."""
_REQUESTS_FAULT = frozenset({400, 413, 422, 451})
"""A context that is too long, a content filter: another request may do better."""
_UNUSABLE = frozenset({402, 405, 406, 407, 410, 411, 415, 426})
"""No request does better: payment required, a method that is not allowed."""
_FILTERED = re.compile(r"moderat|flagged|content.?(?:policy|filter|management)|safety|guardrail", re.IGNORECASE)
_MANY_WORDS = 4
"""So many words in front of an answer are no chance likeness to a thought."""
_NO_ANSWER = re.compile(r"think|thought|reason|summar|analys|tool|redact")
"""Words in the types of a message's parts that are not its answer."""
_REFUSED = re.compile(
    r"filter|safety|refus|recitation|block|prohibit|guardrail|moderat|policy|spii|sensitive|censor|toxic"
)
_FAILED = re.compile(r"error|fail|malformed")
_CUT = re.compile(
    r"length|max|limit|window|abort|cancel|time.?out|insufficient|interrupt|incomplete|not.?finish|repetition|pause"
)
_ENDED = re.compile(
    r"(?<![a-z])(?:stop|eo[st]|end|complete|done|finish|natural|matched|exit|word|tool|function|success|ok|normal|null|none"
    r"|unknown)|\A\Z"
)
"""Words in the reasons for which an answer ended, in small letters: refused by a filter, an error, not at its end, and
at its end. They are looked for in this order."""
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


class Problem(Exception):
    """What may come in place of an answer."""


class Unreached(Problem):
    """Nothing listens at the address."""


class ServerBusy(Problem):
    """The server is not ready for any request. `wait`: seconds that it asks for, 0 if it names none."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class GatewayFailed(ServerBusy):
    """The server behind a gateway does not answer: it is down, or this request is at fault."""


class RateLimited(Problem):
    """Too many requests. `wait`: seconds that the server asks for, 0 if it names none. `exhausted`: a quota or daily
    limit, which a pause does not lift."""

    def __init__(self, what: str, wait: float = 0.0, *, exhausted: bool = False) -> None:
        super().__init__(what)
        self.wait, self.exhausted = wait, exhausted


class RequestFailed(Problem):
    """An error that may be this request's alone: status 500, no answer in time, an answer without a message."""


class NotAnAnswer(Problem):
    """What a server of this protocol never sends: a web page, a stream, an object of another kind."""


class RequestRefused(Problem):
    """The server works but refuses this request: too long, or against its rules."""


class NotFound(Problem):
    """The server knows no such path or model."""


class Unauthorised(Problem):
    """The server wants a key, or a different key."""


class Unusable(Problem):
    """A refusal that applies to every request: a redirect, payment required, a method that is not allowed."""


class UnknownParameter(Problem):
    """The server does not take these parameters of the request."""

    def __init__(self, what: str, names: frozenset[str]) -> None:
        super().__init__(what)
        self.names = names


def object_in(response: httpx2.Response) -> dict[str, Any]:
    """The JSON object of a successful response. Raises NotAnAnswer."""
    kind = response.headers.get("content-type", "")
    if "text/event-stream" in kind or response.content.lstrip()[:5] == b"data:":
        raise NotAnAnswer(f"a stream of events, which was not asked for: {_text(response)}")
    try:
        data = parse_json(response.content)
    except ValueError:
        page = " (a web page)" if "html" in kind or response.content.lstrip()[:1] == b"<" else ""
        raise NotAnAnswer(f"an answer that is no JSON object{page}: {_text(response)}") from None
    if not isinstance(data, dict):
        raise NotAnAnswer(f"an answer that is no JSON object: {data}")
    return data


def read_answer(data: dict[str, Any]) -> Answer:
    """The answer in the object that a server sent.

    Raises RequestFailed if there is none, RequestRefused if a content filter or the model refused, RateLimited and
    others for an error with a status, and NotAnAnswer for an object of another protocol."""
    choices = data.get("choices")
    if error := data.get("error") or (None if choices else _bare_error(data)):
        raise _error_inside(error)
    if not isinstance(choices, list):
        raise NotAnAnswer(f"an answer without a message: {data}")
    choice = next((each for each in choices if isinstance(each, dict) and each.get("index") == 0), [*choices, None][0])
    if not isinstance(choice, dict) or not isinstance(message := choice.get("message"), dict):
        raise RequestFailed(f"an answer without a message: {data}")
    if choice.get("error"):
        raise RequestFailed(f"an error in place of an answer: {choice['error']}")
    finish, content = _finish_of(choice.get("finish_reason"), data), message.get("content")
    text = _text_of(content)
    if not text.strip() and (refusal := message.get("refusal") or _refusal_in(content)):
        raise RequestRefused(f"the model refused: {refusal}")
    beside = [message[name] for name in _BESIDE if message.get(name)]
    own = _without_copy(text, beside)
    whole = own.encode("utf-8", "replace").decode("utf-8")  # no tokenizer accepts JSON's unpaired surrogates
    found = answer_of(whole)
    if found is None:
        found = whole
    elif not found and (beside or _holds_thoughts(content)):
        found = THOUGHTS
    usage = data.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    counted = tokens if type(tokens) is int and 0 <= tokens <= MOST_TOKENS else None
    return Answer(found, finish, counted, holds_special_token(found))


def _finish_of(named: Any, data: dict[str, Any]) -> FinishReason:
    """Whether an answer was cut off, from the reason for which it ended. Raises RequestRefused, or RequestFailed if it
    has not ended well."""
    reason = str(named or "").lower()
    if _REFUSED.search(reason):
        raise RequestRefused(f"the server's content filter stopped the answer ({reason})")
    if _FAILED.search(reason):
        raise RequestFailed(f"an error in place of an answer ({reason}): {data}")
    if _CUT.search(reason):
        return "length"
    if not _ENDED.search(reason):
        raise RequestFailed(f"an answer that ended for an unknown reason ({reason}): {data}")
    return "stop"


_BESIDE = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks")
"""Where a message holds its thoughts beside the content."""


def _bare_error(data: dict[str, Any]) -> Any:
    """An error that is the whole object: `{"object": "error", …}` or `{"code": 429, "message": …}`."""
    return data if data.get("object") == "error" or (data.get("code") and data.get("message")) else None


def _text_of(content: Any) -> str:
    """A message's content as text: the parts of a list that are the answer, joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = _parts(content)
    if len(parts) < (len(content) if isinstance(content, list) else 1):
        raise RequestFailed(f"a message whose content is no text: {content}")
    return "".join(_own_text(part, "text") for part in parts if _is_answer(part))


def _own_text(part: str | dict[str, Any], *names: str) -> str:
    """A part's text, which an object has under one of the names."""
    found = [part] if isinstance(part, str) else [part.get(name) for name in names]
    return next((text for text in found if isinstance(text, str)), "")


def _parts(content: Any) -> list[Any]:
    """The parts of a message's content that are strings or objects."""
    listed = content if isinstance(content, list) else [content]
    return [part for part in listed if isinstance(part, str | dict)]


def _is_answer(part: str | dict[str, Any]) -> bool:
    """Whether a part of a message is its answer. The names of other parts, thoughts among them, differ by server."""
    if isinstance(part, str):
        return True
    return not part.get("thought") and not _NO_ANSWER.search(str(part.get("type") or "").lower())


def _without_copy(text: str, beside: list[Any]) -> str:
    """The text without a copy of the thoughts in front of it, which some servers put into both places. An answer may
    also begin with the words of a short thought, or with a sentence of it."""
    for thoughts in beside:
        thought = "".join(_own_text(part, "text", "thinking", "summary") for part in _parts(thoughts)).strip()
        rest = text.lstrip().removeprefix(thought)
        breaks = not rest.strip() or rest.lstrip(" ")[0] in "\r\n<"
        broken_off = len(thought.split()) >= _MANY_WORDS and thought[-1] not in ".!?"
        if thought and rest != text.lstrip() and (breaks or broken_off):
            return rest
    return text


def _refusal_in(content: Any) -> Any:
    """The refusal among a message's parts, if there is one."""
    return next((part["refusal"] for part in _parts(content) if isinstance(part, dict) and part.get("refusal")), None)


def _holds_thoughts(content: Any) -> bool:
    """Whether a message has parts beside its answer."""
    return not all(map(_is_answer, _parts(content)))


def _error_inside(error: Any) -> Exception:
    """An error in an answer with status 200; some gateways put its status inside."""
    message, code = _message_of({"error": error}) or (str(error), None)
    what, status = f"an error in place of an answer: {message}", str(code)
    if status == "429" or is_exhausted("", code):
        return RateLimited(what, wait_in_words(message), exhausted=is_exhausted(message, code))
    if status in ("401", "403") and not _FILTERED.search(message):
        return Unauthorised(what)
    if status in ("404", "model_not_found"):
        return NotFound(what)
    if status == "content_filter":
        return RequestRefused(what)
    return _by_status(int(status) if status.isdecimal() and len(status) == 3 else 0, what, wait_in_words(message))


def _by_status(status: int, what: str, wait: float) -> Exception:
    """The error for a status that says all by itself. One that is not known is taken for the request's fault."""
    if status in _BUSY:
        return ServerBusy(what, wait)
    if status in _GATEWAY:
        return GatewayFailed(what, wait)
    return RequestRefused(what) if status in _REQUESTS_FAULT else RequestFailed(what)


def problem_of(response: httpx2.Response, sent: frozenset[str] = frozenset()) -> Exception:
    """The error for an unsuccessful response. `sent` are the request's optional parameters."""
    status, (message, code) = response.status_code, _said(response)
    what, wait = f"status {status}: {message}", asked_wait(response, message)
    if status == 429:
        return RateLimited(what, retry_after(response, message), exhausted=is_exhausted(message, code))
    if status in (401, 403):  # a gateway's moderation speaks of one text
        return RequestRefused(what) if status == 403 and _FILTERED.search(_text(response)) else Unauthorised(what)
    if status in (400, 422) and (names := unknown_parameters(response, sent)):
        return UnknownParameter(what, names)
    if status == 404 or (code == "model_not_found" and status < 500):
        return NotFound(what)
    return Unusable(what) if status < 400 or status in _UNUSABLE else _by_status(status, what, wait)


_NOT_TAKEN = re.compile(
    r"unsupported|not supported|does not support|doesn't support|unknown|unrecogni[sz]ed|unexpected|not permitted"
    r"|not allowed|extra_forbidden|extra inputs|extra fields|not a valid (?:field|parameter)|no longer|deprecated"
    r"|only the default|is not available|\bremoved\b|use ['\"`]?max_completion_tokens",
    re.IGNORECASE,
)


_NOT_BOTH = re.compile(r"temperature\W+and\W+top_p\W.*\b(?:both|together)\b", re.IGNORECASE)


def unknown_parameters(response: httpx2.Response, sent: frozenset[str]) -> frozenset[str]:
    """The parameters among `sent` that a refusal names as unsupported."""
    text = _text(response)
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


def _said(response: httpx2.Response) -> tuple[str, object]:
    """The message and the code of a server's refusal."""
    if response.has_redirect_location:
        return f"a redirect to {response.headers['location']}, which is not followed", None
    try:
        return _message_of(parse_json(response.content)) or (_text(response), None)
    except ValueError:
        return _text(response), None


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


def _text(response: httpx2.Response) -> str:
    """The body as text, whatever charset the server names: Python knows some that are none."""
    return response.content.decode("utf-8", "replace")

"""What a model's answer may contain besides a reasoning: thoughts, end tokens, markup, and polite refusals.

Some servers return a model's private thoughts in the text of its answer. These are not part of the answer and must
never be trained on. Clean cuts are made here; the filters reject what remains.
"""

from __future__ import annotations

import re

from rir_mlx.json_text import parse_json

MOST_TOKENS = 1 << 24
"""No answer has more: a greater number is a server's wrong count."""
_NAMES = (
    r"(?:[a-z0-9]+[_.:-])*(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis|monologue"
    r"|deliberation|cot|mind|internal|plan(?:ning)?)(?:[_.:-][a-z0-9]+)*"
)
"""Names of tags around thoughts, which models join with others: `longcat_think`, `seed:cot_budget_reflect`."""
_LT, _GT = r"(?:<|&lt;|＜|\\u003c)", r"(?:>|&gt;|＞|\\u003e)"
"""The signs around a tag, as they are, and as HTML, full-width letters or JSON write them."""
_EMPTY = re.compile(rf"{_LT}\s*(?:{_NAMES})\s*/\s*{_GT}", re.IGNORECASE)
"""A thought that is a single tag, `<think/>`, and holds nothing."""
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\xad"))
"""Characters that print nothing, and could stand inside a tag."""
_OPEN = "|".join(
    (
        rf"{_LT}\s*(?:{_NAMES})(?:\s[^<>]*)?{_GT}",
        rf"<\|\s*(?:begin_of_|start_|begin_)?(?:{_NAMES})\s*\|>",
        r"\[\s*THINK\s*\]",
        r"◁think▷",
        r"<unused94>(?:thought)?",
        r"<\|channel>\s*\w*",
        r"\AThinking\.\.\.(?=\s)",
        r"\AHere(?: is|'s|’s) my thought process:",
    )
)
_CLOSE = "|".join(
    (
        rf"{_LT}\s*/\s*(?:{_NAMES})\s*{_GT}",
        rf"<\|\s*(?:/|end_of_|end_)(?:{_NAMES})\s*\|>",
        r"\[\s*/\s*THINK\s*\]",
        r"◁/think▷",
        r"<unused95>",
        r"<channel\|>",
        r"\.\.\.done thinking\.",
        r"Here(?: is|'s|’s) my response:",
    )
)
_MARKER = re.compile(rf"(?P<close>{_CLOSE})|(?P<open>{_OPEN})", re.IGNORECASE)

_CHANNELS = re.compile(r"<\|(?:channel|message|start)\|>")
_FINAL_CHANNEL = re.compile(
    r"(?:<\|channel\|>|\A)\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(.*?)(?=<\|(?:end|return|start|channel|call)\|>|\Z)",
    re.DOTALL,
)
"""The harmony format of gpt-oss: https://github.com/openai/harmony."""
_LEAKED_FINAL = re.compile(r"assistantfinal|assistant\s*\n\s*final\b")
_LEAKED_CHANNEL = re.compile(r"assistant(?:analysis|commentary)|\A\s*(?:analysis|commentary)(?:\s*\n|\s*(?=[A-Z\"“']))")
"""The same channels after a detokeniser has dropped the control tokens and left their names."""
_LEADING_FINAL = re.compile(r"\A\s*final(?=[A-Z\"“'])")

_HEADED = re.compile(
    r"\A\W*(?:thinking(?:\s+process)?|thoughts?(?:\s+process)?|chain\s+of\s+thought|internal\s+monologue|scratchpad)"
    r"\s*\**(?::|\s*\n)(?:.*\n\W*(?:final\s+)?(?:answer|response|output|reply)\s*\**(?::|\s*\n)\W*(?P<answer>.+))?",
    re.DOTALL | re.IGNORECASE,
)
"""Thoughts under a heading, and the answer after its own: `**Thinking:** … **Answer:** …`."""

_SPECIAL = (
    r"(?:<\|[\w▁ .-]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:eos|bos|pad|unk|EOD)>"
    r"|<(?:start|end)_of_(?:turn|text|utterance)>|\[/?INST\]|<</?SYS>>|<\|?turn\|?>|<0x[0-9A-F]{2}>|<extra_id_\d+>"
    r"|<[A-Z_]*(?:BOS|EOS|EOT|PAD)[A-Z_]*>|<SPECIAL_\d+>|\[(?:BOS|EOS|PAD|SEP|CLS|UNK|MASK)\]|▁"
    r"|\[/?(?:TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT)\]|\[e~\[|\]~!?b\["
    r"|\n\s*(?:\#+\s*)?(?:Human|User|Assistant|Instruction):)"
)
"""Control tokens, pieces that were never made text again, and the turn of another speaker."""
_SPECIAL_TOKEN = re.compile(_SPECIAL)
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_BEGINS = r"(?:<\|(?:begin_of_\w+|START_\w+|startoftext)\|>|<｜begin[^｜<>]*｜>|<s>|<bos>)"
_ENDS = (
    r"(?:<\|(?:eot_id|eom_id|eot|eos|im_end|end|return|endoftext|end_of_\w+|END_\w+)\|>|<｜end[^｜<>]*｜>|</s>|<eos>"
    r"|<end_of_(?:turn|text|utterance)>|<turn\|>)"
)
_AROUND = re.compile(rf"\A(?:\s*{_BEGINS})+\s*|(?:\s*{_ENDS})+\s*\Z")
"""Tokens around an answer, in the formats of many model families. Control tokens elsewhere do not count."""

_FENCE = re.compile(r"\A\s*```[\w+-]*[ \t]*\n?(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)
_WRAPPER = re.compile(
    r"\A\s*<(answer|response|output|final|final_answer|solution|explanation|result)>(.*?)(?:</\1>\s*)?\Z",
    re.DOTALL | re.IGNORECASE,
)
_LEFT_OVER = re.compile(
    r"</?(?:answer|response|output|final|final_answer|solution|explanation|result|tool_call)>|<!--", re.IGNORECASE
)
_JSON_START = re.compile(r"\A\s*[\[{]\s*[\"'{\[]")
_ELEMENT = re.compile(r"\A\s*<([a-z][\w:.-]*)(?:\s[^<>]*)?>.*</\1\s*>", re.DOTALL | re.IGNORECASE)
_ANSWER_KEYS = ("reasoning", "explanation", "rationale", "reason", "answer", "response", "text", "output", "content")

_DECLINES = re.compile(
    r"""\A\W*(?:
      (?:(?:i['’]?m|i\s+am|we(?:['’]re|\s+are))\s+(?:\w+\s+)?)?(?:sorry|afraid)\b[^.!?\n]{0,40}?
        (?:can['’]?t|cannot|can\s+not|unable|not\s+able|won['’]?t|will\s+not|not\s+comfortable|must\s+decline)
    | (?:i|we|my)?\s*(?:sincerely\s+)?apologi[sz]e\w*\b[^.!?\n]{0,40}?
        (?:can['’]?t|cannot|can\s+not|unable|not\s+able|won['’]?t|will\s+not)
    | (?:unfortunately,?\s+)?(?:as\s+an?\s+(?:ai|artificial|language|large|assistant)[^.!?\n]{0,60}?)?
      i\s*(?:can['’]?t|cannot|can\s+not|['’]?m\s+(?:unable|not\s+able)\s+to|am\s+(?:unable|not\s+able)\s+to|won['’]?t|
         will\s+not|must\s+decline\s+to|have\s+to\s+decline)\s*
      (?:to\s+)?(?:help|assist|provide|comply|fulfil|continue|engage|generate|create|produce|discuss|answer|explain|
         support|respond|write|offer|participate|do\s+that|with|that\s+request)
    | (?:i['’]?m\s+|i\s+am\s+)(?:\w+\s+)?sorry,?\s+but\b
    | i\s+(?:must|have\s+to)\s+(?:\w+\s+)?decline\b
    | i\s+(?:must\s+|have\s+to\s+)?refuse\s+to\s+(?:answer|help|provide|explain|comply|engage|do|write)\b
    | i(?:['’]?m|\s+am)\s+not\s+comfortable\s+(?:answer|discuss|provid|explain|help|writ|with\s+(?:this|that)\b)
    | (?:this|that|it|your\s+request|the\s+request)\s+(?:goes\s+against|violates?|is\s+against)\s+(?:the|our|my)\s+
        (?:\w+\s+){0,2}(?:guidelines|policy|policies|programming)\b
    | unfortunately,?\s+i\s+(?:can['’]?t|cannot)\s*[.!]
    | (?:es\s+)?tut\s+mir\s+leid\b[^.!?\n]{0,40}?\b(?:kann|darf)\b
    | ich\s+(?:kann|darf)\s+(?:\w+\s+){0,3}nicht\s+(?:helfen|beantworten|weiterhelfen)
    | (?:lo\s+siento|lamento|desculpe|sinto\s+muito|mi\s+dispiace)\b[^.!?\n]{0,40}?\b(?:puedo|posso)\b
    | (?:je\s+suis\s+)?d[ée]sol[ée]e?\b[^.!?\n]{0,40}?\bpeux\b
    | je\s+ne\s+peux\s+pas\s+(?:vous\s+|t['’])?(?:r[ée]pondre|aider|fournir|expliquer|assister)\b
    | sorry,?\s+(?:maar\s+)?[^.!?\n]{0,20}\bkan\s+ik\b
    | tyvärr\s+kan\s+jag\s+inte\b
    | przepraszam[^.!?\n]{0,30}\bnie\s+mog
    | üzgünüm[^.!?\n]{0,60}(?:olamam|edemem|veremem|yapamam)
    | 我(?:无法|無法|不能)(?:协助|協助|回答|提供|帮助|幫助|处理|處理|满足|滿足)
    | 죄송[^.!?\n]{0,40}(?:없습니다|어렵습니다)
    | (?:抱歉|对不起|對不起|很抱歉)[^。！？\n]{0,20}?(?:无法|無法|不能)
    | 申し訳[^。！？\n]{0,40}?(?:できません|できかねます)
    | (?:извините|к\s+сожалению|простите)\b[^.!?\n]{0,40}?\bне\s+мо(?:гу|жем)\b
    | (?:your\s+|this\s+|the\s+)?(?:request|content|prompt|response|message)\s+(?:was\s+|has\s+been\s+|is\s+)?
        (?:blocked|filtered|removed|flagged|rejected)\b
    | as\s+an?\s+(?:\w+\s+)?(?:ai|artificial\s+intelligence|(?:large\s+)?language\s+model)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""English in its many forms; other languages in their usual one."""
_NOTHING = re.compile(
    r"\W*(?:n/?a|none|null|nil|nan|undefined|redacted|removed|blocked|to\s?do|tbd|placeholder"
    r"|no (?:answer|reasoning|reason|explanation|response|content|output))?\W*",
    re.IGNORECASE,
)


def answer_of(text: str) -> str | None:
    """The answer in a model's text, without thoughts, end tokens, or a fence around it. None if the text is only
    thoughts, or a thought that does not end."""
    found = _without_thoughts(_EMPTY.sub("", text.translate(_UNSEEN)))
    if found is None:
        return None
    found = _AROUND.sub("", found)
    if wrapped := _WRAPPER.match(found):
        found = wrapped[2]
    return _unfenced(found).strip()


def holds_thoughts(text: str) -> bool:
    """Whether a text still contains thoughts: a thinking tag, or a channel other than the answer's."""
    signs = (_MARKER, _CHANNELS, _LEAKED_FINAL, _LEAKED_CHANNEL, _HEADED)
    return any(sign.search(text) for sign in signs)


def holds_special_token(text: str) -> bool:
    """Whether a text spells out a control token of any model family."""
    return _SPECIAL_TOKEN.search(text) is not None


def holds_control_character(text: str) -> bool:
    """Whether a text contains a character that controls a terminal; white space is none."""
    return _CONTROL.search(text) is not None


def holds_markup(text: str) -> bool:
    """Whether a text is JSON, begins with an element in tags, or holds a fenced block, a comment or a tag that is left
    over, where prose was asked for."""
    signs = (_JSON_START.match(text), _ELEMENT.match(text), _LEFT_OVER.search(text))
    return "```" in text or any(signs)


def says_nothing(text: str) -> bool:
    """Whether a text is a placeholder for one: `N/A`, `None`, `[REDACTED]`, or punctuation alone."""
    return _NOTHING.fullmatch(text) is not None


def declines(text: str) -> bool:
    """Whether an assistant declines to answer ("I'm sorry, but I can't help with that")."""
    return _DECLINES.match(text) is not None


def _without_thoughts(text: str) -> str | None:
    if _CHANNELS.search(text):
        finals = _FINAL_CHANNEL.findall(text)
        return _outside_tags(finals[-1]) if finals else None
    outside = _outside_tags(text)
    if outside is None:
        return None
    if headed := _HEADED.match(outside):
        return headed["answer"]
    leaked = list(_LEAKED_FINAL.finditer(outside))
    if leaked:
        outside = outside[leaked[-1].end() :]
    elif not _LEAKED_CHANNEL.search(outside):
        return _LEADING_FINAL.sub("", outside)
    return None if _LEAKED_CHANNEL.search(outside) or not outside.strip() else outside


def _outside_tags(text: str) -> str | None:
    """The text outside of thoughts. A closing tag ends every open one; a closing tag alone makes all before it a
    thought, since many chat templates open the thought in the prompt."""
    parts: list[str] = []
    start, thinking, cut = 0, False, False
    for marker in _MARKER.finditer(text):
        cut = True
        if marker["open"]:
            if not thinking:
                parts.append(text[start : marker.start()])
            thinking = True
            continue
        if not thinking:
            parts = []
        thinking, start = False, marker.end()
    if thinking:
        return None
    if not cut:
        return text
    rest = " ".join(part.strip() for part in (*parts, text[start:]) if part.strip())
    return rest or None


def _unfenced(text: str) -> str:
    """The text inside a fence; for a JSON object, its answer string if there is a clear one."""
    if fenced := _FENCE.match(text):
        text = fenced[1]
    if not _JSON_START.match(text):
        return text
    try:
        value = parse_json(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return text
    lowered = {str(key).lower(): item for key, item in value.items() if isinstance(item, str)}
    named = [lowered[key] for key in _ANSWER_KEYS if key in lowered]
    if named:
        return named[0]
    return next(iter(lowered.values())) if len(value) == len(lowered) == 1 else text

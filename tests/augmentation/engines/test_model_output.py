"""What surrounds a reasoning in a model's answer: cut where that is clean, rejected otherwise, never kept."""

from __future__ import annotations

import pytest
from server_requests import engine_at, make_orders, write
from server_stand_in import StandInServer

from rir_mlx.augmentation.engines.answers import RequestRefused, read_answer
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.model_output import answer_of, declines, holds_thoughts
from rir_mlx.prompting.codec import Codec

SECRET = "the user wants me to justify the label"
ANSWER = "Their friend came home."
CUT = [
    f"<think>\n{SECRET}\n</think>\n\n{ANSWER}",
    f"{SECRET}</think>\n{ANSWER}",
    f"<thinking time='3'>{SECRET}</thinking>{ANSWER}",
    f"<THINK>{SECRET}<think>{SECRET}</think>{SECRET}</think>{ANSWER}",
    f"[THINK]{SECRET}[/THINK]{ANSWER}",
    f"◁think▷{SECRET}◁/think▷{ANSWER}",
    f"<seed:think>{SECRET}</seed:think>{ANSWER}",
    f"<|begin_of_thought|>{SECRET}<|end_of_thought|><|begin_of_solution|>{ANSWER}<|end_of_solution|>",
    f"<|START_THINKING|>{SECRET}<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>",
    f"<|channel>thought\n{SECRET}<channel|>{ANSWER}",
    f"&lt;think&gt;{SECRET}&lt;/think&gt;{ANSWER}",
    f"Thinking...\n{SECRET}\n...done thinking.\n\n{ANSWER}",
    f"<|channel|>analysis<|message|>{SECRET}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
    f"analysis<|message|>{SECRET}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
    f"analysisWe see: {SECRET}.assistantfinal{ANSWER}",
    f"analysis\n{SECRET}\nassistant\nfinal\n{ANSWER}",
    f"{ANSWER}<|im_end|>",
    f"{ANSWER}</s>\n",
    f"<s> {ANSWER}<end_of_turn>\n<eos>",
    f"{ANSWER}<｜end▁of▁sentence｜>",
    f"```\n{ANSWER}\n```",
    f'```json\n{{"reasoning": "{ANSWER}", "label": "joy"}}\n```',
    f'{{"explanation": "{ANSWER}"}}',
    f"<think>{SECRET}</think><answer>{ANSWER}</answer>",
    f"<longcat_think>{SECRET}</longcat_think>{ANSWER}",
    f"<seed:cot_budget_reflect>{SECRET}</seed:cot_budget_reflect>{ANSWER}",
    f"<chain_of_thought>{SECRET}</chain_of_thought>{ANSWER}",
    f"**Thinking:** {SECRET}\n\n**Answer:** {ANSWER}",
    f"# Thought process\n{SECRET}\n\n# Answer\n{ANSWER}",
    f"[ THINK ]{SECRET}[ /THINK ]{ANSWER}",
    f"＜think＞{SECRET}＜/think＞{ANSWER}",
    f"\\u003cthink\\u003e{SECRET}\\u003c/think\\u003e{ANSWER}",
    f"<th\u200bink>{SECRET}</th\u2060ink>{ANSWER}",
    f"<think/>{ANSWER}",
]
REJECTED = {
    "thinking": [
        f"<think>{SECRET}",
        f"{ANSWER} <think> {SECRET}",
        f"<think>{SECRET}</think>",
        f"<|channel|>analysis<|message|>{SECRET}",
        f"analysisWe see: {SECRET}",
        f"analysis\n{SECRET}assistantcommentary to",
        f"<scratchpad>{SECRET}",
        f"Thinking Process:\n1. {SECRET}\n2. {ANSWER}",
    ],
    "declined": [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I cannot assist with that request.",
        "As an AI language model, I do not have feelings.",
        "I cannot provide an explanation for this text.",
        "Sorry, I'm unable to explain this.",
        "I apologize, but I can't continue with it.",
        "I must respectfully decline.",
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
        "Lo siento, pero no puedo ayudar con eso.",
        "Désolée, je ne peux pas répondre.",
        "抱歉，我无法回答。",
        "This request was blocked by our content policy.",
        *("As a responsible AI, I must refuse.", "I refuse to answer this.", "I'm not comfortable answering that."),
        *("This goes against my guidelines.", "Je ne peux pas répondre à cette demande.", "我无法协助处理该请求。"),
        *(
            "죄송하지만 도와드릴 수 없습니다.",
            "Sorry, daar kan ik niet mee helpen.",
            "Tyvärr kan jag inte hjälpa till.",
        ),
        *("Przepraszam, nie mogę w tym pomóc.", "Üzgünüm, bu konuda yardımcı olamam."),
    ],
    "empty": ["N/A", "None.", "[REDACTED]"],
    "markup": [
        f"<verdict>{SECRET}</verdict>{ANSWER}",
        '{"reasoning": 5}',
        '[{"a": "b"}]',
        f"Here it is:\n```json\n{ANSWER}",
        '{"reasoning": "The friend',
        *(f"{SECRET}</answer>", f"<!-- {SECRET} -->{ANSWER}", f"{ANSWER}<tool_call>"),
    ],
    "control": [
        f"{ANSWER}<|start_header_id|>",
        f"{ANSWER}<|im_end|>\n<|im_start|>user\nAnd now?",
        f"{ANSWER} [INST] And now? [/INST] Well.",
        f"{ANSWER}\n\nHuman: And now?",
        f"{ANSWER}<0x0A><extra_id_0>",
        "Their▁friend▁came▁home.",
        *(f"{ANSWER}<SPECIAL_12>", f'[TOOL_CALLS]x{{"a":1}}{ANSWER}', f"]~b]ai\n{ANSWER}[e~["),
    ],
}


@pytest.mark.parametrize("text", CUT)
def test_what_is_not_the_answer_is_cut(text: str) -> None:
    assert answer_of(text) == ANSWER


def test_a_thought_in_the_middle_is_cut_out() -> None:
    assert answer_of(f"They smile. <think>{SECRET}</think> They laugh.") == "They smile. They laugh."


@pytest.mark.parametrize(
    "text",
    [ANSWER, "", "I think their friend came home", "analysis of the text shows a friend", "3 < 4, they say", "a <b> c"],
)
def test_an_answer_alone_stays_as_it_is(text: str) -> None:
    assert answer_of(text) == text
    assert not holds_thoughts(text)


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in REJECTED.items() for text in texts])
def test_what_cannot_be_cut_is_rejected_with_a_reason_of_its_own(codec: Codec, reason: str, text: str) -> None:
    with StandInServer(lambda body: (200, {}, answer(text))).running() as url:
        [generated] = write(engine_at(url, codec), make_orders(1)).values()
    filters = ReasoningFilters(codec, ["joy", "sadness"], "Which feeling?", [])
    assert filters("i was glad", "joy", generated.text, generated.finish_reason, generated.control) == reason


def answer(text: object, **more: object) -> dict[str, object]:
    return {"choices": [{"message": {"content": text} | more, "finish_reason": "stop"}]}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking", "reasoning_details"])
@pytest.mark.parametrize("content", ["", None, " \n", SECRET])
def test_thoughts_beside_no_other_content_are_no_answer(codec: Codec, name: str, content: str | None) -> None:
    """Some servers put a thought that does not end into both places."""
    found = read_answer(answer(content, **{name: SECRET}))
    assert SECRET not in found.text
    assert ReasoningFilters(codec, ["joy"], "")("i was glad", "joy", found.text) == "thinking"


def test_thoughts_beside_a_content_are_ignored() -> None:
    with StandInServer(lambda body: (200, {}, answer(ANSWER, reasoning_content=SECRET))).running() as url:
        [generated] = write(engine_at(url), make_orders(1)).values()
    assert generated.text == ANSWER


def test_parts_of_a_content_are_joined_and_thoughts_among_them_left_out() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": SECRET}]},
        {"type": "text", "text": "Their friend "},
        {"type": "text", "text": "came home."},
    ]
    message = {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]}
    with StandInServer(lambda body: (200, {}, message)).running() as url:
        [generated] = write(engine_at(url), make_orders(1)).values()
    assert generated.text == ANSWER


@pytest.mark.parametrize(
    "reason", ["content_filter", "SAFETY", "RECITATION", "blocklist", "SPII", "guardrail_intervened"]
)
def test_half_an_answer_that_a_content_filter_stopped_is_refused(reason: str) -> None:
    message = {"choices": [{"message": {"content": "Their friend"}, "finish_reason": reason}]}
    with pytest.raises(RequestRefused, match="content filter"):
        read_answer(message)


@pytest.mark.parametrize(
    "reason",
    [
        *("length", "MAX_TOKENS", "model_length", "abort", "insufficient_system_resource"),
        *("model_context_window_exceeded", "pause_turn", "repetition", {"type": "length"}),
    ],
    ids=str,
)
def test_an_answer_that_did_not_reach_its_end_is_cut_off(reason: object) -> None:
    """Other servers' names for it passed for the end of the answer."""
    choice = {"message": {"content": "Their friend"}, "finish_reason": reason}
    assert read_answer({"choices": [choice]}).finish_reason == "length"


@pytest.mark.parametrize(
    "message",
    [answer(None, refusal="I will not."), answer([{"type": "refusal", "refusal": "I will not."}])],
)
def test_a_refusal_beside_the_content_or_in_it_is_refused(message: dict[str, object]) -> None:
    with StandInServer(lambda body: (200, {}, message)).running() as url:
        [generated] = write(engine_at(url), make_orders(1)).values()
    assert "I will not." in generated.refused


def test_a_reasoning_may_quote_a_text_that_declines(codec: Codec) -> None:
    text = "I'm sorry, but I can't help you any more"
    filters = ReasoningFilters(codec, ["joy", "sadness"], "", [])
    assert declines(text)
    assert filters(text, "sadness", f"{text} sounds like a parting.") is None
    assert filters("hello", "sadness", f"{text} sounds like a parting.") == "declined"

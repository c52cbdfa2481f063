"""The clients that people have, pointed at the server."""

from __future__ import annotations

import math

import httpx2
import pytest
from commands import LABELS
from served_models import SERVED, TEXTS, fake_classifier, serving

from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.prompting.codec import Codec
from rir_mlx.serving.guard import Policy

KEY = "0123456789abcdef0123"
FEELING = dict.fromkeys(LABELS)


def test_typesafe_s_client_gets_choice_noul_and_score(address: str, codec: Codec) -> None:
    """The official client, as its own documentation calls it."""
    sdk = pytest.importorskip("typesafe_sdk")
    questions = {
        "feeling": sdk.Choice(instructions="What does the writer feel?", criteria=FEELING),
        "weather": sdk.Choice(instructions="What about?", criteria={"rain": "wet", "sun": None, "snow": None}),
        "sad": sdk.Noul(instructions="Is the writer sad?"),
        "strength": sdk.Score(instructions="How much?", criteria=["calm", "moved", "overwhelmed"]),
    }
    with sdk.TypeSafeClient(base_url=address, api_key="unused") as client:
        [model] = client.models.list().models
        assert (model.name, model.release_date) == (SERVED.name, SERVED.trained_on)
        response = client.system_one(state={"text": TEXTS[1]}, questions=questions)
    assert response.model == SERVED.name
    assert len(response.request_id) == 32
    assert response.usage.input_tokens > 100
    assert response.usage.output_tokens == 0
    [expected] = fake_classifier(codec).predict([TEXTS[1]], PredictOptions("never"))
    feeling = response.choices["feeling"]
    assert feeling.choice == expected.label
    assert feeling.probabilities == pytest.approx(expected.probabilities)
    assert feeling.confidence == pytest.approx((expected.probability - 1 / 3) / (1 - 1 / 3))
    assert set(response.choices["weather"].probabilities) == {"rain", "sun", "snow"}
    assert 0 < response.nouls["sad"].noul < 1
    strength = response.scores["strength"]
    assert strength.legend == {0: "calm", 1: "moved", 2: "overwhelmed"}
    assert strength.score == pytest.approx(strength.probabilities[1] + 2 * strength.probabilities[2])
    assert math.isclose(sum(strength.probabilities.values()), 1)


@pytest.mark.parametrize("reason", ["always", "auto"])
def test_typesafe_s_client_gets_a_reason_where_it_asks_for_one(address: str, codec: Codec, reason: str) -> None:
    sdk = pytest.importorskip("typesafe_sdk")
    questions = {"feeling": {"type": "choice", "criteria": FEELING}, "sad": {"type": "noul", "instructions": "Sad?"}}
    classifier = fake_classifier(codec)
    with sdk.TypeSafeClient(base_url=address, api_key="unused") as client:
        for text in TEXTS[:6]:
            response = client.system_one(text, questions, extra_body={"reason": reason})
            answers = response.raw_http_response.json()["answers"]
            [expected] = classifier.predict([text], PredictOptions(reason))  # type: ignore[arg-type]
            feeling, sad = answers["feeling"], answers["sad"]
            assert feeling["reason"] == expected.reasoning
            assert feeling["probabilities"] == pytest.approx(expected.probabilities)
            assert feeling["mass"] == pytest.approx(expected.mass)
            assert feeling["calibrated"] is True
            assert feeling["abstain"] is (expected.probability < (0.3 if expected.reasoning is None else 0.35))
            assert (sad["calibrated"], sad["abstain"]) == (False, None)
            assert bool(sad["reason"]) == (reason == "always")
            assert response.usage.output_tokens >= expected.tokens


def test_typesafe_s_client_sends_the_key_and_shows_what_is_wrong(codec: Codec) -> None:
    sdk = pytest.importorskip("typesafe_sdk")
    question, many = {"feeling": {"type": "choice", "criteria": FEELING}}, dict.fromkeys(map(str, range(300)))
    with serving(fake_classifier(codec), Policy(key=KEY)) as (address, _):
        with sdk.TypeSafeClient(base_url=address, api_key=KEY) as client:
            assert client.system_one("i was sad", question).choices["feeling"].choice in LABELS
            with pytest.raises(sdk.TypeSafeUnprocessableEntityError, match="at most 255"):
                client.system_one("i was sad", {"x": {"type": "choice", "criteria": many}})
        with (
            sdk.TypeSafeClient(base_url=address, api_key="wrong") as client,
            pytest.raises(sdk.TypeSafeAuthenticationError, match="API key"),
        ):
            client.models.list()


def test_openai_s_client_decides(address: str) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="unused")
    assert [model.id for model in client.models.list()] == [SERVED.name]
    decision = client.decisions.create(
        model=SERVED.name,
        input=[{"role": "user", "content": [{"type": "input_text", "text": "i was sad"}]}],
        questions=[
            {"type": "predicate", "name": "sad", "instructions": "The writer is sad."},
            {"type": "choice", "instructions": "Rain?", "choices": [{"value": True}, {"value": "true"}]},
            {"type": "score", "instructions": "How much?", "levels": [{"label": "calm"}, {"label": "moved"}]},
        ],
    )
    predicate, choice, score = decision.answers
    assert (predicate.name, choice.name) == ("sad", None)
    assert [option.value for option in choice.probabilities] == [True, "true"]
    assert [level.label for level in score.probabilities] == ["calm", "moved"]
    assert decision.usage.total_tokens == decision.usage.input_tokens


def test_decisions_in_openai_s_form(address: str, codec: Codec) -> None:
    questions = [
        {"type": "choice", "instructions": "?", "choices": [{"value": label} for label in LABELS]},
        {"type": "predicate", "name": "sad", "instructions": [{"type": "input_text", "text": "The writer is sad."}]},
        {"type": "score", "instructions": "?", "levels": [{"label": "calm", "description": "still"}, {"label": "x"}]},
    ]
    body = {"model": "any", "input": TEXTS[0], "questions": questions, "reason": "always"}
    found = httpx2.post(f"{address}/v1/decisions", json=body).json()
    [expected] = fake_classifier(codec).predict([TEXTS[0]], PredictOptions("always"))
    choice, predicate, score = found["answers"]
    assert (choice["choice"], choice["calibrated"], choice["name"]) == (expected.label, True, None)
    assert [option["value"] for option in choice["probabilities"]] == list(LABELS)
    assert choice["reason"] == expected.reasoning
    assert (predicate["name"], predicate["type"]) == ("sad", "predicate")
    assert 0 < predicate["probability"] < 1
    assert [level["value"] for level in score["probabilities"]] == [0, 1]
    usage = found["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == usage["output_tokens"] > 0

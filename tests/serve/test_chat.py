"""The chat as the official client of OpenAI's API meets it, over a real connection."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import openai
import pytest

from pipeline.serve.completions import MODEL, UNKNOWN
from tests.serve.listening import Listening, listening
from tests.serve.served import serve_settings
from tests.serve.small import Trained

QUESTION = "What is the capital of France?"
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("chat")
    with listening(serve_settings(trained, folder, batch=2, waiting=1, nice=0)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Listening) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as found:
        yield found


def knowledge(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_extra["knowledge"]
    return found


def test_an_answer_tells_the_facts_it_was_read_from(client: openai.OpenAI, server: Listening) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0.7, seed=1, user="me")
    right = server.service.engine.run(lambda: server.service.session.ask(QUESTION)).result()
    [choice] = answer.choices
    assert choice.message.content == right.text
    assert (choice.message.role, choice.finish_reason, answer.object) == (
        "assistant",
        "length",
        "chat.completion",
    )
    told = knowledge(answer)
    assert told["refused"] is False
    assert told["refusal"] == pytest.approx(right.refusal, abs=1e-5)
    assert [(f["head"]["key"], f["relation"]["key"], f["tail"]["key"]) for f in told["facts"]] == [
        used.key for used in right.facts
    ]
    assert [f["weight"] for f in told["facts"]] == pytest.approx(
        [used.weight for used in right.facts], abs=1e-5
    )
    assert told["version"] == server.service.version
    took = told["milliseconds"]
    assert 0 <= took["waiting"] < took["total"]
    assert 0 < took["finding"] < took["first_token"] <= took["total"]
    usage = answer.usage
    assert usage is not None
    reader = server.service.session.system.reader
    prompt, facts = len(reader.prompts([QUESTION])[0]), [f["text"] + "\n" for f in told["facts"]]
    assert usage.prompt_tokens == prompt + sum(map(len, reader.encode(facts)))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens == 4
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.model_extra == {"fact_tokens": usage.prompt_tokens - prompt}


def test_a_stream_begins_with_the_facts_and_its_pieces_are_the_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ASKED)
    options: Any = {"include_usage": True}
    first, *pieces, last, usage = client.chat.completions.create(
        model=MODEL, messages=ASKED, stream=True, stream_options=options
    )
    assert first.choices[0].delta.role == "assistant"
    assert knowledge(first)["facts"] == knowledge(whole)["facts"]
    assert "total" not in knowledge(first)["milliseconds"]
    assert (
        "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    )
    assert len({chunk.id for chunk in (first, *pieces, last, usage)}) == 1
    assert [chunk.choices[0].finish_reason for chunk in pieces] == [None] * len(pieces)
    assert last.choices[0].finish_reason == "length"
    assert knowledge(last)["milliseconds"]["total"] > 0
    assert usage.choices == []
    assert usage.usage == whole.usage
    *_, end = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
    assert end.choices, "without the option there is no chunk of tokens"


def test_a_refusal_says_so_both_ways(client: openai.OpenAI, server: Listening) -> None:
    null = server.service.session.system.null
    former = float(null.threshold)
    null.threshold.fill_(1e-6)
    try:
        answer = client.chat.completions.create(model=MODEL, messages=ASKED)
        chunks = list(client.chat.completions.create(model=MODEL, messages=ASKED, stream=True))
    finally:
        null.threshold.fill_(former)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (UNKNOWN, "stop")
    assert knowledge(answer)["refused"] is True
    assert knowledge(answer)["facts"], "what was looked at"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == UNKNOWN
    assert knowledge(chunks[0])["refused"] is True


def test_the_last_message_of_the_user_counts_in_every_form(client: openai.OpenAI) -> None:
    parts: list[Any] = [
        {"type": "text", "text": "What is the capital"},
        {"type": "text", "text": "of France?"},
    ]
    talk: list[Any] = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "What is the currency of Peru?"},
        {"role": "assistant", "content": "gold", "refusal": None, "tool_calls": None},
        {"role": "user", "content": parts},
    ]
    one, other = (client.chat.completions.create(model=MODEL, messages=said) for said in (ASKED, talk))
    assert one.choices[0].message.content == other.choices[0].message.content
    assert knowledge(one)["facts"] == knowledge(other)["facts"]


def test_the_extension_says_from_when_and_from_how_much(client: openai.OpenAI) -> None:
    few = client.chat.completions.create(model=MODEL, messages=ASKED, extra_body={"knowledge": {"k": 1}})
    assert len(knowledge(few)["facts"]) == 1
    then = client.chat.completions.create(
        model=MODEL, messages=ASKED, extra_body={"knowledge": {"as_of": "1950"}}
    )
    assert then.choices[0].message.content
    short = client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=9, max_completion_tokens=2)
    assert short.usage is not None
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (2, "length")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["."]}, "stop"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"extra_body": {"knowledge": {"as_of": "yesterday"}}}, "knowledge.as_of"),
        ({"extra_body": {"knowledge": {"as_of": "1950-13"}}}, None),
        ({"extra_body": {"knowledge": {"k": 13}}}, "knowledge.k"),
        ({"extra_body": {"knowledge": {"facts": 1}}}, "knowledge.facts"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 1001}]}, None),
        ({"messages": []}, "messages"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_can_not_be_honoured_is_refused_by_name(
    client: openai.OpenAI, wrong: dict[str, Any], param: str | None, stream: bool
) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": ASKED, "stream": stream} | wrong
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked)
    body: Any = caught.value.body
    assert body.keys() == {"message", "type", "param", "code"}
    assert (body["param"], body["type"]) == (param, "invalid_request_error")


def test_there_is_one_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "tiny-llama"
    with pytest.raises(openai.NotFoundError, match="there is living-memory"):
        client.chat.completions.create(model="gpt-4", messages=ASKED)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def held_up(server: Listening) -> threading.Event:
    begun, free = threading.Event(), threading.Event()
    server.service.engine.run(lambda: (begun.set(), free.wait(60)))
    assert begun.wait(60)
    return free


def reached(holds: Any) -> None:
    """Wait until something holds, which others see to."""
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_too_many_at_once_are_asked_to_come_again(client: openai.OpenAI, server: Listening) -> None:
    free, engine = held_up(server), server.service.engine
    answers: list[Any] = []

    def ask() -> None:
        answers.append(client.chat.completions.create(model=MODEL, messages=ASKED))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    reached(lambda: engine.waiting == 3)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASKED)
    assert caught.value.response.headers["retry-after"] == "1"
    free.set()
    for thread in threads:
        thread.join()
    assert len({answer.choices[0].message.content for answer in answers}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(server: Listening, stream: bool) -> None:
    free, engine = held_up(server), server.service.engine
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"model": MODEL, "messages": ASKED, "stream": stream})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    reached(lambda: engine.waiting == 1)
    [ticket] = engine._waiting
    connection.close()
    reached(lambda: ticket.cancelled)
    free.set()
    reached(lambda: engine.waiting == 0)


def got(server: Listening, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def test_health_and_metrics_over_a_connection(server: Listening) -> None:
    for path in ("/healthz", "/readyz"):
        assert got(server, path) == (200, b'{"status":"ok"}')
    text = got(server, "/metrics")[1].decode()
    assert 'living_memory_requests_total{method="GET",route="/readyz",status="200"} 1.0' in text
    assert "living_memory_facts 3.0" in text
    assert "process_resident_memory_bytes" in text
    assert 'status="429"' in text


def test_a_server_that_stops_says_so(trained: Trained, tmp_path: Any) -> None:
    with listening(serve_settings(trained, tmp_path, nice=0)) as found:
        free, client = (
            held_up(found),
            openai.OpenAI(base_url=f"{found.address}/v1", api_key="none", max_retries=0),
        )
        answers: list[Any] = []
        thread = threading.Thread(
            target=lambda: answers.append(client.chat.completions.create(model=MODEL, messages=ASKED))
        )
        thread.start()
        reached(lambda: found.service.engine.waiting == 1)
        found.service.engine.drain()
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model=MODEL, messages=ASKED)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
        assert got(found, "/readyz")[0] == 503
        free.set()
        thread.join()
        client.close()
    assert answers[0].choices[0].message.content

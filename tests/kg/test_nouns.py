"""Where nouns come from, what is refused, and the endpoint over a real connection."""

import json
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipeline.config import UserError
from pipeline.kg.naming import Nouns, name_relations
from pipeline.kg.nouns import COLUMNS, clean, fault, read_table, reviewed, rule
from pipeline.kg.writers import Endpoint
from tests.kg.graphs import synthesis

HEADER = "\t".join(COLUMNS)


def config(tmp_path: Path, ask: str = "table_first", writer: str = "local") -> Nouns:
    return replace(synthesis().nouns, ask=ask, writer=writer, cache=tmp_path / "cache" / "nouns.tsv")


class Scripted:
    """Answers by the relation that the prompt ends with."""

    def __init__(self, answers: dict[tuple[str, str], str]) -> None:
        self.answers = answers
        self.prompts: list[str] = []

    def complete(self, prompt: str) -> tuple[str, int, int]:
        self.prompts.append(prompt)
        last = prompt.splitlines()[-1]
        for (label, side), answer in self.answers.items():
            if f"Relation: {label}." in last and f"Gap: {side}." in last:
                return answer, len(prompt.split()), len(answer.split())
        raise AssertionError(last)


def ask(
    labels: list[str], nouns: Nouns, writer: Scripted, symmetric: list[bool] | None = None
) -> tuple[list[tuple[str, str]], dict[str, object]]:
    relations = [(f"X{number}", label) for number, label in enumerate(labels)]
    mirrored = symmetric or [False] * len(labels)
    (tails, heads), spent = name_relations(relations, mirrored, nouns, "tiny", lambda: writer)
    return list(zip(tails, heads, strict=True)), vars(spent)


def test_the_reviewed_table_is_sound() -> None:
    table = read_table()
    lines = [
        line.split("\t") for line in Path("pipeline/kg/nouns.tsv").read_text(encoding="utf-8").splitlines()
    ]
    keyed = [line for line in lines[1:] if line[0].startswith("P")]
    assert len(keyed) == 407
    assert all("version 1" in line[5] for line in lines[1:])
    for row in table.values():
        assert fault(row.noun_tail, 8) is None, row
        assert fault(row.noun_head, 8) is None, row
    tails = [line[2].casefold() for line in keyed]
    assert len(tails) == len(set(tails)), "two relations are asked for in the same words"
    born = reviewed(table, "P19", "place of birth")
    assert born is not None
    assert (born.noun_tail, born.noun_head) == ("place of birth", "native")
    assert reviewed(table, "twiki:birth", "Place of Birth") == born
    inverse = reviewed(table, "R19", "place of birth (inverse)")
    assert inverse is not None
    assert (inverse.noun_tail, inverse.noun_head) == ("native", "place of birth")


@pytest.mark.parametrize(
    ("answer", "noun", "reason"),
    [
        ("capital city", "capital city", None),
        (' "The capital city."\nRelation: next', "capital city", None),
        ("an architect's firm", "architect's firm", None),
        ("", "", "empty"),
        ("\n\n", "", "empty"),
        (
            "one two three four five six seven eight nine",
            "one two three four five six seven eight nine",
            "too long",
        ),
        ("capital, or seat", "capital, or seat", "punctuation"),
        ("capital: Paris", "capital: Paris", "punctuation"),
        ("it is the capital", "it is the capital", "a sentence"),
        ("person who directs", "person who directs", "a sentence"),
        ("director of", "director of", "begins or ends with a small word"),
        ("by the director", "by the director", "begins or ends with a small word"),
        ("42", "42", "no word"),
    ],
)
def test_what_a_model_says_is_cleaned_and_checked(answer: str, noun: str, reason: str | None) -> None:
    assert clean(answer) == noun
    assert fault(noun, 8) == reason


def test_sources_are_asked_in_order_and_counted(tmp_path: Path) -> None:
    nouns = config(tmp_path)
    writer = Scripted(
        {
            ("brews", "tail"): "beer",
            ("brews", "head"): "brewer",
            ("rows beside", "tail"): "fellow rower",
            ("rows beside", "head"): "fellow rower",
            ("paints", "tail"): "It is a picture.",
            ("paints", "head"): "painter",
            ("sings", "tail"): "song",
            ("sings", "head"): "Song",
        }
    )
    labels = ["place of birth", "brews", "rows beside", "paints", "sings"]
    pairs, spent = ask(labels, nouns, writer, [False, False, True, False, False])
    assert pairs == [
        ("place of birth", "native"),
        ("beer", "brewer"),
        ("fellow rower", "fellow rower"),
        ("paints", "painter"),
        ("song", "sings subject"),
    ]
    assert (spent["asked"], spent["table"], spent["called"], spent["cache"]) == (10, 2, 8, 0)
    assert (spent["accepted"], spent["fallback"]) == (6, 2)
    assert spent["rejected"] == {"a sentence": 1, "head is tail": 1}
    assert spent["tokens"] == spent["tokens_now"] > 0

    again = Scripted({})
    pairs_again, spent_again = ask(labels, nouns, again, [False, False, True, False, False])
    assert pairs_again == pairs
    assert not again.prompts
    assert (spent_again["cache"], spent_again["tokens_now"]) == (8, 0)
    assert spent_again["tokens"] == spent["tokens"], "what cached answers cost is still reported"

    other = replace(nouns, instruction="Say it otherwise.")
    ask(labels, other, writer, [False, False, True, False, False])
    assert len(writer.prompts) == 16, "another prompt is another version"


def test_answers_survive_a_failure(tmp_path: Path) -> None:
    writer = Scripted({("brews", "tail"): "beer", ("brews", "head"): "brewer"})
    with pytest.raises(AssertionError, match="sings"):
        ask(["brews", "sings"], config(tmp_path), writer)
    _, spent = ask(["brews"], config(tmp_path), Scripted({}))
    assert (spent["cache"], spent["called"]) == (2, 0)


def test_llm_only_leaves_the_table_out(tmp_path: Path) -> None:
    writer = Scripted({("place of birth", "tail"): "birthplace", ("place of birth", "head"): "person born"})
    pairs, spent = ask(["place of birth"], config(tmp_path, ask="llm_only"), writer)
    assert pairs == [("birthplace", "person born")]
    assert spent["table"] == 0


def test_without_a_writer_the_rule_serves(tmp_path: Path) -> None:
    pairs, spent = ask(["brews (DEPRECATED)"], config(tmp_path, writer="none"), Scripted({}))
    assert pairs == [("brews", "brews subject")]
    assert spent["fallback"] == 2
    assert rule("()", "tail") == "()"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key\tlabel\n", r"line 1: the columns must be key, label, noun_tail.*not key, label"),
        (f"{HEADER}\nP1\tx\ty\n", r"line 2: 3 cells, not 6"),
        (f"{HEADER}\nP1\tx\t\tz\tno\to\n", r"line 2: a label, two nouns"),
        (f"{HEADER}\nP1\tx\ty\ty\tno\to\n", r"line 2: the nouns are equal if and only if"),
        (f"{HEADER}\nP1\tx\ty\tz\tno\to\nP1\tw\ty\tz\tno\to\n", r"line 3: the key 'P1' is there twice"),
    ],
)
def test_a_damaged_table_is_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "nouns.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_table(path)
    with pytest.raises(UserError, match="not found"):
        read_table(tmp_path / "none.tsv")


def test_a_damaged_cache_is_named_by_line(tmp_path: Path) -> None:
    nouns = config(tmp_path)
    nouns.cache.parent.mkdir()
    nouns.cache.write_text("rubbish\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1: not a cached answer.*delete the file"):
        ask(["brews"], nouns, Scripted({}))


class Server:
    """An OpenAI-compatible service in a thread; `replies` are status and body, the last one for good."""

    def __init__(self, replies: list[tuple[int, object]]) -> None:
        seen: list[tuple[str, dict[str, object], str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((self.path, body, self.headers["Authorization"]))
                status, reply = replies[min(len(seen), len(replies)) - 1]
                raw = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.seen = seen
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> "Server":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def endpoint(self) -> Endpoint:
        url = f"http://127.0.0.1:{self.server.server_port}/v1/"
        return replace(synthesis().endpoint, base_url=url, wait=0.01, retries=2, timeout=5.0)


ANSWER = {
    "choices": [{"message": {"content": "brewer"}}],
    "usage": {"prompt_tokens": 40, "completion_tokens": 2},
}


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NOUN_KEY", "letmein")
    return "NOUN_KEY"


def test_an_endpoint_is_asked_and_a_passing_failure_repeated(key: str) -> None:
    with Server([(503, {}), (429, {}), (200, ANSWER)]) as server:
        assert replace(server.endpoint, api_key=key).complete("Who?") == ("brewer", 40, 2)
    assert len(server.seen) == 3
    path, body, authorization = server.seen[-1]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "Who?"}]
    assert authorization == "Bearer letmein"


@pytest.mark.parametrize(
    ("replies", "calls", "message"),
    [
        ([(401, {"error": "bad key"})], 1, r"no answer \(HTTP 401.*nouns.writer to local"),
        ([(500, {})], 3, r"no answer \(HTTP 500"),
        ([(200, {"choices": []})], 1, r"not an OpenAI-compatible answer.*base_url"),
    ],
)
def test_a_refusing_endpoint_is_an_error(replies: list[tuple[int, object]], calls: int, message: str) -> None:
    with Server(replies) as server, pytest.raises(UserError, match=message):
        server.endpoint.complete("Who?")
    assert len(server.seen) == calls


def test_an_unreachable_endpoint_names_the_remedy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = replace(
        synthesis().endpoint, base_url=f"http://127.0.0.1:{port}/v1", retries=1, wait=0.0, timeout=2.0
    )
    with pytest.raises(UserError, match=r"no answer.*check synthesis.endpoint.*nouns.writer"):
        endpoint.complete("Who?")


def test_a_missing_key_is_named() -> None:
    endpoint = replace(synthesis().endpoint, api_key="NO_SUCH_KEY_HERE")
    with pytest.raises(UserError, match="environment variable NO_SUCH_KEY_HERE"):
        endpoint.complete("Who?")

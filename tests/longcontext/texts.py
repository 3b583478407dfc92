"""Made-up files in the forms of the real ones below `longcontext/` of a data root."""

import csv
import json
from pathlib import Path
from typing import Any

NAMES = ("Aland", "Borland", "Cland", "Dorland", "Esland", "Forland")


def passage(name: str) -> str:
    return f"{name} is a country of the south. Its capital is {name} City. It has rivers and hills."


def written(root: Path) -> Path:
    """Write small data sets below `root`; return it."""
    folder = root / "longcontext"
    for name in ("nq_open_oracle", "multihop_text", "ag_news", "tiny_shakespeare"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        {
            "question": f"what is the capital of {name.lower()}",
            "answers": [f"{name} City", f"the city of {name}"],
            "ctxs": [{"title": name, "text": passage(name), "hasanswer": True, "isgold": True}],
        }
        for name in NAMES
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "nq_open_oracle" / "nq-open-oracle.jsonl").write_text(lines, encoding="utf-8")
    two = [
        {
            "question": "Which country has the first ship and which the second?",
            "answer": "Gorland",
            "supporting_facts": [["First ship", 0], ["Second ship", 0]],
            "context": [
                ["First ship", ["The first ship is of Gorland.", " It is old."]],
                ["A bird", ["Birds fly."]],
                ["Second ship", ["The second ship is of Gorland too."]],
            ],
        }
    ]
    (folder / "multihop_text" / "hotpotqa_train.json").write_text(json.dumps(two), encoding="utf-8")
    corpus = {title: parts for title, parts in two[0]["context"]}
    (folder / "multihop_text" / "hotpotqa_train_corpus.json").write_text(json.dumps(corpus), encoding="utf-8")
    wiki = [
        {"title": f"Hill {n}", "text": f"Hill {n} is {n} metres high. Sheep live there."} for n in range(9)
    ]
    (folder / "multihop_text" / "2wikimultihopqa_corpus.json").write_text(json.dumps(wiki), encoding="utf-8")
    with (folder / "ag_news" / "test.csv").open("w", encoding="utf-8", newline="") as file:
        items = [("3", f"Rain in {name}", f"It rained in {name} #39;s \\north on Monday.") for name in NAMES]
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(items)
    plays = "First Citizen:\nSpeak, speak.\n\nAll:\nResolved. resolved.\n"
    (folder / "tiny_shakespeare" / "input.txt").write_text(plays, encoding="utf-8")
    return root

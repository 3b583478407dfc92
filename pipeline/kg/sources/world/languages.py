"""Languages and writing systems, from pycountry (ISO 639-3, 15924) and language_data (CLDR, Wiktionary)."""

import ast
import csv
import io
from collections import defaultdict

from pipeline.config import UserError
from pipeline.kg.sources.world.draft import Draft, need, read_json
from pipeline.packages import Wheel

STATUS = {
    "L": "living language",
    "E": "extinct language",
    "H": "historical language",
    "A": "ancient language",
}
STATUS |= {"C": "constructed language"}


def languages(draft: Draft, iso: Wheel) -> None:
    """Add every language of ISO 639-3; its key is the two-letter code where there is one, as in BCP 47."""
    member = "pycountry/databases/iso639-3.json"
    for row in read_json(iso, member)["639-3"]:
        need(row, ("alpha_3", "name", "scope", "type"), iso, member)
        if row["type"] not in STATUS:  # "uncoded", "undetermined" and their like
            continue
        key, label = f"language:{row.get('alpha_2', row['alpha_3'])}", row["name"].split(" (")[0]
        longer = (f"{label} language", f"{label} ({row['alpha_3']})")
        draft.name(key, label, "language", qualified=longer)
        draft.value(key, "language_status", STATUS[row["type"]], "pycountry")
        draft.value(key, "iso639_3", row["alpha_3"], "pycountry")
    for row in read_json(iso, "pycountry/databases/iso15924.json")["15924"]:
        label = row["name"].split(" (")[0]
        key = f"script:{row['alpha_4']}"
        draft.name(key, label, "writing system", qualified=(f"{label} script", f"{label} ({row['alpha_4']})"))
        draft.value(key, "iso15924", row["alpha_4"], "pycountry")


def relatives(draft: Draft, data: Wheel) -> None:
    """Add what is known of the languages: family, scripts, macrolanguage, where they are spoken."""
    source = "language_data"
    text = data.read("language_data/data/wiktionary/codes-en.csv").decode("utf-8")
    for row in csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE):
        key = f"language:{row[0]}"
        if key not in draft.named or len(row) < 4:
            continue
        if row[2]:
            family = draft.name(f"family:{row[2]}", f"{row[2]} languages", "language family")
            draft.fact(key, "language_family", family, source)
        for script in filter(None, row[3].split(", ")):
            draft.fact(key, "writing_system", _known(draft, f"script:{script}"), source)
    registry = data.read("language_data/data/language-subtag-registry.txt").decode("utf-8")
    for record in registry.split("%%\n"):
        fields = dict(line.split(": ", 1) for line in record.splitlines() if ": " in line)
        key = f"language:{fields.get('Subtag')}"
        if fields.get("Type") == "language" and "Macrolanguage" in fields and key in draft.named:
            draft.fact(key, "macrolanguage", _known(draft, f"language:{fields['Macrolanguage']}"), source)
    _speakers(draft, data)


def _speakers(draft: Draft, data: Wheel) -> None:
    member = "language_data/population_data.py"
    speakers: dict[str, dict[str, int]] = defaultdict(dict)
    for tag, number in _assigned(data, member, "LANGUAGE_SPEAKING_POPULATION").items():
        parts = tag.split("-")
        country = f"country:{parts[-1]}"
        language = f"language:{parts[0]}"
        if len(parts) == 2 and number > 0 and country in draft.named and language in draft.named:
            speakers[language][country] = number
    for language, numbers in speakers.items():
        for country in numbers:
            draft.fact(language, "spoken_in", country, "language_data")
        most = max(numbers, key=lambda country: (numbers[country], country))
        draft.fact(language, "most_speakers", most, "language_data")


def _assigned(data: Wheel, member: str, name: str) -> dict[str, int]:
    """Return the literal that a Python file assigns to `name`, without running the file."""
    for node in ast.parse(data.read(member)).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        ):
            value: dict[str, int] = ast.literal_eval(node.value)
            return value
    raise UserError(f"{data.path.name}: {member} assigns no {name}; pin another release in conf/data")


def _known(draft: Draft, key: str) -> str | None:
    return key if key in draft.named else None

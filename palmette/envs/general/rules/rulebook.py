"""Decides whether a text keeps rules: ``python3 -I -S /tests/rulebook.py`` reads /tests/rules.json and what it names.

rules.json: {"path": "/app/name.txt", "rules": [{"kind": ..., ...}]}; every rule must hold. A word is a run of letters
(with ' or - inside), a sentence ends with . ! or ? before a blank or the end, a paragraph is what blank lines part, and
a line has something on it. Case does not count where a rule names a word or a letter. This file stands alone, because
it is copied into tasks.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable
from itertools import pairwise

REWARD = "/logs/verifier/reward.txt"
_MOST_BYTES = 1 << 20


def main() -> None:
    """Read, judge, write the reward."""
    with open("/tests/rules.json", encoding="utf-8") as file:
        plan = json.load(file)
    try:
        why = fault(read(plan["path"]), plan["rules"])
    except (OSError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
    sys.stdout.write((why or "all rules hold") + "\n")
    os.makedirs(os.path.dirname(REWARD), exist_ok=True)
    with open(REWARD, "w", encoding="utf-8") as file:
        file.write("0\n" if why else "1\n")


def fault(text: str, rules: list) -> str:
    """Return which rule a text breaks, or nothing. Raises `ValueError` for what is no JSON where it should be."""
    if not words(text):
        return "there is no word"
    return next((f"{rule} is broken" for rule in rules if not KINDS[rule["kind"]](text, rule)), "")


def read(path: str) -> str:
    """Return a regular file of a reasonable size, not behind a link. Raises `OSError`, `ValueError`."""
    if os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
        raise ValueError(f"{path} is behind a link")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is no regular file")
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{path} is larger than {_MOST_BYTES} bytes")
    return data.decode().strip("\n")


def words(text: str) -> list:
    """Return the words, in lower case."""
    return re.findall(r"[a-z]+(?:['-][a-z]+)*", text.lower())


def sentences(text: str) -> list:
    """Return what ends with . ! or ? and holds a word."""
    return [part for part in re.findall(r"[^.!?]*[.!?]+(?=\s|$|[\"'>)])", text) if words(part)]


def paragraphs(text: str) -> list:
    """Return what blank lines part."""
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def lines(text: str) -> list:
    """Return the lines that have something on them, with what stands before it."""
    return [line.rstrip() for line in text.split("\n") if line.strip()]


def _bullets(text: str, r: dict) -> bool:
    found = [line for line in lines(text) if line.startswith(r["mark"] + " ")]
    return len(found) == r["n"] and len(lines(text)) == r["n"] + r.get("others", 0)


def _numbered(text: str, r: dict) -> bool:
    found = [m.group(1) for line in lines(text) if (m := re.match(r"(\d+)\. \S", line))]
    return found == [str(n) for n in range(1, r["n"] + 1)]


def _title(text: str, r: dict) -> bool:
    first = (lines(text) or [""])[0]
    return re.fullmatch(r"<<[^<>\n]+>>", first) is not None and len(words(first)) == r["n"]


def _rising(text: str, r: dict) -> bool:
    counts = [len(words(line)) for line in lines(text)]
    return len(counts) > 1 and all(a < b for a, b in pairwise(counts))


def _alternate(text: str, r: dict) -> bool:
    found = lines(text)
    return len(found) > 1 and all((x.isupper() if n % 2 == 0 else x.islower()) for n, x in enumerate(found))


def _table(text: str, r: dict) -> bool:
    rows = [line for line in lines(text) if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    if len(cells) != r["rows"] + 2 or any(len(row) != r["columns"] for row in cells):
        return False
    return all(re.fullmatch(r":?-{3,}:?", cell) for cell in cells[1]) and all(all(row) for row in cells)


def _cell(text: str, r: dict) -> bool:
    rows = [[cell.strip() for cell in x.strip("|").split("|")] for x in lines(text) if x.startswith("|")]
    at = r["row"] + 1  # after the head and the rule below it; row 0 is the head
    at = 0 if r["row"] == 0 else at
    return len(rows) > at and len(rows[at]) >= r["column"] and rows[at][r["column"] - 1] == r["word"]


def _column_sorted(text: str, r: dict) -> bool:
    rows = [[cell.strip() for cell in x.strip("|").split("|")] for x in lines(text) if x.startswith("|")][2:]
    found = [row[r["column"] - 1].lower() for row in rows if len(row) >= r["column"]]
    return len(found) == len(rows) > 1 and found == sorted(found)


def _json(text: str, r: dict) -> bool:
    return fits(json.loads(text), r["schema"])


def _json_order(text: str, r: dict) -> bool:
    value = json.loads(text)
    return isinstance(value, dict) and list(value) == r["keys"]


def _json_indent(text: str, r: dict) -> bool:
    return text == json.dumps(json.loads(text), indent=r["n"], ensure_ascii=False)


def fits(value: object, schema: dict) -> bool:
    """Say whether a value of JSON fits a schema of the small part of JSON Schema that tasks use."""
    types = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
    if not isinstance(value, types[schema["type"]]) or (schema["type"] == "integer" and isinstance(value, bool)):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, str):
        return re.fullmatch(schema.get("pattern", r"(?s).*"), value) is not None
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**6):
            return False
        if schema.get("uniqueItems") and len({json.dumps(x, sort_keys=True) for x in value}) < len(value):
            return False
        return all(fits(each, schema["items"]) for each in value)
    if isinstance(value, dict):
        known, needed = schema.get("properties", {}), schema.get("required", [])
        if not set(needed) <= set(value) or not set(value) <= set(known):
            return False
        return all(fits(each, known[key]) for key, each in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        return low <= value <= high and value % schema.get("multipleOf", 1) == 0
    return True


def _word_at(text: str, r: dict) -> bool:
    found = paragraphs(text)
    inside = words(found[r["paragraph"] - 1]) if len(found) >= r["paragraph"] else []
    return len(inside) >= r["n"] and inside[r["n"] - 1] == r["word"]


def _framed(text: str, r: dict) -> bool:
    return all((w := words(part)) and len(w) > 1 and w[0] == w[-1] for part in paragraphs(text))


def _indented(text: str, r: dict) -> bool:
    found = lines(text)
    return bool(found) and all(len(x) - len(x.lstrip(" ")) == n * r["n"] for n, x in enumerate(found))


def _separated(text: str, r: dict) -> bool:
    parts = re.split(r"\n\s*" + re.escape(r["mark"]) + r"\s*\n", text)
    return len(parts) == r["n"] and all(words(part) for part in parts)


KINDS: dict[str, Callable[[str, dict], bool]] = {
    "words": lambda t, r: len(words(t)) == r["n"],
    "words_between": lambda t, r: r["low"] <= len(words(t)) <= r["high"],
    "sentences": lambda t, r: len(sentences(t)) == r["n"],
    "paragraphs": lambda t, r: len(paragraphs(t)) == r["n"],
    "lines": lambda t, r: len(lines(t)) == r["n"],
    "first_word": lambda t, r: words(t)[:1] == [r["word"]],
    "last_word": lambda t, r: words(t)[-1:] == [r["word"]],
    "word_at": _word_at,
    "contains": lambda t, r: words(t).count(r["word"]) == r["n"],
    "without": lambda t, r: bool(words(t)) and r["word"] not in words(t),
    "without_letter": lambda t, r: bool(words(t)) and r["letter"] not in t.lower(),
    "letters": lambda t, r: t.lower().count(r["letter"]) == r["n"],
    "lowercase": lambda t, r: t.islower(),
    "capitals": lambda t, r: len(re.findall(r"(?<![\w'-])[A-Z]{2,}(?![\w'-])", t)) == r["n"],
    "bullets": _bullets,
    "numbered": _numbered,
    "title": _title,
    "placeholders": lambda t, r: len(re.findall(r"\[[a-z]+\]", t)) == r["n"],
    "no_commas": lambda t, r: bool(words(t)) and "," not in t,
    "commas": lambda t, r: t.count(",") == r["n"],
    "sorted_lines": lambda t, r: len(lines(t)) > 1 and (x := [s.lower() for s in lines(t)]) == sorted(x),
    "acrostic": lambda t, r: "".join(x.strip()[:1] for x in lines(t)).lower() == r["word"],
    "words_per_line": lambda t, r: bool(lines(t)) and all(len(words(x)) == r["n"] for x in lines(t)),
    "line_length": lambda t, r: bool(lines(t)) and all(len(x) <= r["n"] for x in lines(t)),
    "line_ends": lambda t, r: bool(lines(t)) and all(x.endswith(r["mark"]) for x in lines(t)),
    "line_starts": lambda t, r: bool(lines(t)) and all(x.strip().lower().startswith(r["letter"]) for x in lines(t)),
    "rising": _rising,
    "alternate": _alternate,
    "indented": _indented,
    "quoted": lambda t, r: re.fullmatch(r'"[^"]+"', t) is not None,
    "postscript": lambda t, r: (p := paragraphs(t)) != [] and p[-1].startswith("P.S. ") and len(words(p[-1])) > 2,
    "distinct": lambda t, r: (w := words(t)) != [] and len(set(w)) == len(w),
    "longest": lambda t, r: bool(words(t)) and max(map(len, words(t))) <= r["n"],
    "shortest": lambda t, r: bool(words(t)) and min(map(len, words(t))) >= r["n"],
    "separated": _separated,
    "digits": lambda t, r: sum(c.isdigit() for c in t) == r["n"],
    "framed": _framed,
    "table": _table,
    "cell": _cell,
    "column_sorted": _column_sorted,
    "json": _json,
    "json_order": _json_order,
    "json_indent": _json_indent,
}

if __name__ == "__main__":
    main()

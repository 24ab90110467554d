"""Texts that keep rules, and the rules they keep: a text is made first, so no two rules can ever contradict each other.

Each layout makes a text with some shape, and says what its shape keeps; `seen` adds what is true of any text (counts,
positions, letters). What is asked for is a choice of these.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from palmette.envs.api import Split
from palmette.envs.general.rules.rulebook import lines, paragraphs, sentences, words
from palmette.envs.general.rules.wording import Rule
from palmette.envs.words import word

HELDOUT = ("rising", "separated", "digits", "framed", "column_sorted", "json_order", "commas")  # never in training
_VOCABULARY = (
    "the a of and to in is was for with on at by from up about into over after river stone light house garden bread "
    "water morning evening winter summer small large quiet bright old new green blue silver wooden open closed "
    "heavy gentle slow quick walks sings carries finds keeps turns opens waits falls grows moves reads writes "
    "paints builds under near beyond between because while when still never often again almost together door window "
    "bridge road mountain valley forest island harbour market village city lamp table chair book letter song story "
    "dream voice hand eye heart child friend baker sailor teacher farmer painter king queen fox owl bear horse wolf "
    "salmon oak pine birch rose clover wheat barley apple plum cherry honey salt pepper butter cheese copper iron "
    "amber coral two three seven nine every some many few other same first last long short deep high low warm cold "
    "soft hard"
)
_WORDS = _VOCABULARY.split()
Made = tuple[str, list[Rule]]


class Pen:
    """Draws words for one text; `letter` is one that none of them has, "" for no such."""

    def __init__(self, rng: random.Random, split: Split, letter: str = "") -> None:
        self.rng = rng
        self.split: Split = split
        self.taken: set[str] = set()
        self._words = [w for w in _WORDS if not letter or letter not in w]
        self._letter = letter

    def some(self, count: int) -> list[str]:
        """Return that many words; some may be the same."""
        return [self.rng.choice(self._words) for _ in range(count)]

    def different(self, count: int) -> list[str]:
        """Return that many different words."""
        return self.rng.sample(self._words, count)

    def initial(self, letter: str) -> str | None:
        """Return a word that begins with a letter, if there is one."""
        found = [w for w in self._words if w.startswith(letter)]
        return self.rng.choice(found) if found else None

    def name(self) -> str:
        """Return an invented word without the letter."""
        while True:
            found = word(self.rng, self.split, taken=self.taken)
            if not self._letter or self._letter not in found:
                return found


def prose(pen: Pen) -> Made:
    """Paragraphs of sentences, with a few of many ornaments."""
    rng, rules = pen.rng, list[Rule]()
    blocks = [[pen.some(rng.randint(4, 9)) for _ in range(rng.randint(1, 3))] for _ in range(rng.randint(1, 4))]
    ornaments = set(rng.sample(("title", "quoted", "postscript", "separated", "framed", "placeholders", "digits"), 3))
    commas = rng.random() < 0.5
    if "framed" in ornaments:
        for block in blocks:
            block[-1][-1] = block[0][0]
        rules.append({"kind": "framed"})
    if commas:
        for block in blocks:
            block[0][1] += ","
        rules.append({"kind": "commas", "n": len(blocks)})
    else:
        rules.append({"kind": "no_commas"})
    parts = [" ".join(_sentence(s, rng) for s in block) for block in blocks]
    if "placeholders" in ornaments and "framed" not in ornaments:
        n = rng.randint(1, 3)
        parts[0] += " " + " ".join(f"[{pen.name()}]" for _ in range(n)) + "."
        rules.append({"kind": "placeholders", "n": n})
    if "digits" in ornaments and "framed" not in ornaments:
        number = str(rng.randint(10, 99999))
        parts[-1] = parts[-1][:-1] + f" {number}."
        rules.append({"kind": "digits", "n": len(number)})
    framed = "framed" in ornaments  # it must stay true of every paragraph
    if "title" in ornaments and not framed:
        n = rng.randint(2, 4)
        parts.insert(0, f"<<{' '.join(pen.some(n))}>>")
        rules.append({"kind": "title", "n": n})
    if "postscript" in ornaments and not framed:
        parts.append(f"P.S. {_sentence(pen.some(5), rng)}")
        rules.append({"kind": "postscript"})
    mark = rng.choice(("***", "---", "~~~"))
    separated = "separated" in ornaments and len(parts) > 1 and not framed and "postscript" not in ornaments
    text = f"\n{mark}\n".join(parts) if separated else "\n\n".join(parts)
    if separated:
        rules.append({"kind": "separated", "n": len(parts), "mark": mark})
    if "quoted" in ornaments and "title" not in ornaments and "postscript" not in ornaments and not framed:
        text = f'"{text}"'
        rules.append({"kind": "quoted"})
    return _cased(text, rng, rules)


def verse(pen: Pen) -> Made:
    """Lines of words, shaped in one or two ways."""
    rng, rules = pen.rng, list[Rule]()
    count, per_line = rng.randint(3, 7), rng.randint(3, 6)
    rows = [pen.some(per_line) for _ in range(count)]
    shape = rng.choice(("acrostic", "sorted", "starts", "rising", "alternate", "indented"))
    if shape == "rising":
        rows = [pen.some(2 + n) for n in range(count)]
        rules.append({"kind": "rising"})
    else:
        rules.append({"kind": "words_per_line", "n": per_line})
    if shape == "acrostic":
        name = pen.name()[:count]
        initials = [pen.initial(c) for c in name]
        rows = [[first or c + "ay", *row[1:]] for first, c, row in zip(initials, name, rows, strict=False)]
        rules.append({"kind": "acrostic", "word": "".join(row[0][0] for row in rows)})
    if shape == "starts":
        letter = rng.choice([c for c in "bcfghlmprstw" if pen.initial(c)])
        rows = [[str(pen.initial(letter)), *row[1:]] for row in rows]
        rules.append({"kind": "line_starts", "letter": letter})
    mark = rng.choice(("", ".", "!", ";", " /"))
    made = [" ".join(row) + mark for row in rows]
    if shape == "sorted":
        made.sort()
        rules.append({"kind": "sorted_lines"})
    if mark:
        rules.append({"kind": "line_ends", "mark": mark.strip()})
    if shape == "alternate":
        made = [line.upper() if n % 2 == 0 else line for n, line in enumerate(made)]
        return "\n".join(made), [*rules, {"kind": "alternate"}]
    if shape == "indented":
        step = rng.randint(1, 4)
        made = [" " * (n * step) + line for n, line in enumerate(made)]
        rules.append({"kind": "indented", "n": step})
    rules.append({"kind": "line_length", "n": max(map(len, made)) + rng.randint(0, 3)})
    return _cased("\n".join(made), rng, rules)


def points(pen: Pen) -> Made:
    """A list, with or without an introduction."""
    rng = pen.rng
    items = [" ".join(pen.some(rng.randint(2, 6))) for _ in range(rng.randint(3, 7))]
    if rng.random() < 0.5:
        numbered = "\n".join(f"{n}. {item}" for n, item in enumerate(items, 1))
        return _cased(numbered, rng, [{"kind": "numbered", "n": len(items)}])
    mark, others = rng.choice("*-+"), rng.randint(0, 2)
    before = [" ".join(pen.some(rng.randint(3, 6))) for _ in range(others)]
    rules: list[Rule] = [{"kind": "bullets", "n": len(items), "mark": mark, "others": others}]
    if not others:
        items.sort()
        rules.append({"kind": "sorted_lines"})
    return _cased("\n".join([*before, *(f"{mark} {item}" for item in items)]), rng, rules)


def table(pen: Pen) -> Made:
    """A Markdown table."""
    rng = pen.rng
    rows, columns = rng.randint(2, 5), rng.randint(2, 4)
    cells = [[" ".join(pen.some(rng.randint(1, 2))) for _ in range(columns)] for _ in range(rows + 1)]
    rules: list[Rule] = [{"kind": "table", "rows": rows, "columns": columns}]
    column = rng.randint(1, columns)
    cells[1:] = sorted(cells[1:], key=lambda row: row[column - 1])
    rules.append({"kind": "column_sorted", "column": column})
    for row in rng.sample(range(rows + 1), 2):
        at = rng.choice([c for c in range(1, columns + 1) if c != column])
        cells[row][at - 1] = pen.name()
        rules.append({"kind": "cell", "row": row, "column": at, "word": cells[row][at - 1]})
    made = [f"| {' | '.join(row)} |" for row in cells]
    made.insert(1, "|" + " --- |" * columns)
    return "\n".join(made), rules


def record(pen: Pen) -> Made:
    """A JSON object, its schema, order and layout."""
    rng, value, known = pen.rng, {}, {}
    makers: list[Callable[[Pen], tuple[object, Rule]]] = [_number, _flag, _choice, _code, _names, _object]
    for make in rng.sample(makers, rng.randint(3, len(makers))):
        key = pen.name()
        value[key], known[key] = make(pen)
    schema = {"type": "object", "required": sorted(known), "properties": known}
    indent = rng.choice((1, 2, 4))
    rules: list[Rule] = [{"kind": "json", "schema": schema}, {"kind": "json_indent", "n": indent}]
    rules.append({"kind": "json_order", "keys": list(value)})
    return json.dumps(value, indent=indent), rules


LAYOUTS: dict[str, Callable[[Pen], Made]] = {
    "prose": prose,
    "verse": verse,
    "points": points,
    "table": table,
    "record": record,
}


def seen(text: str, layout: str, pen: Pen) -> list[Rule]:
    """Return rules about counts, positions and letters that the text happens to keep, in no order."""
    rng, found = pen.rng, words(text)
    often = rng.choice(found)
    letter = rng.choice([c for c in "aeiostrn" if c in text.lower()])
    strange, n = rng.choice([w for w in _WORDS if w not in found]), len(found)
    rules: list[Rule] = [
        {"kind": "words", "n": n},
        {"kind": "words_between", "low": n - rng.randint(0, 3), "high": n + rng.randint(1, 3)},
        {"kind": "contains", "word": often, "n": found.count(often)},
        {"kind": "without", "word": strange},
        {"kind": "letters", "letter": letter, "n": text.lower().count(letter)},
        {"kind": "first_word", "word": found[0]},
        {"kind": "last_word", "word": found[-1]},
        {"kind": "longest", "n": max(map(len, found))},
    ]
    if layout not in ("table", "record"):
        rules.append({"kind": "lines", "n": len(lines(text))})
        if min(map(len, found)) > 1:
            rules.append({"kind": "shortest", "n": min(map(len, found))})
        if len(set(found)) == n:
            rules.append({"kind": "distinct"})
    if layout == "prose":
        blocks = paragraphs(text)
        at = rng.randrange(len(blocks))
        inside = words(blocks[at])
        k = rng.randrange(len(inside))
        rules += [
            {"kind": "paragraphs", "n": len(blocks)},
            {"kind": "sentences", "n": len(sentences(text))},
            {"kind": "word_at", "paragraph": at + 1, "n": k + 1, "word": inside[k]},
        ]
    return rules


def _sentence(parts: list[str], rng: random.Random) -> str:
    text = " ".join(parts).rstrip(",")
    return text[0].upper() + text[1:] + rng.choice("...!?")


def _cased(text: str, rng: random.Random, rules: list[Rule]) -> Made:
    """Put all letters small, or a few words in capitals."""
    if rng.random() < 0.5 and not any(rule["kind"] == "postscript" for rule in rules):
        return text.lower(), [*rules, {"kind": "lowercase"}]
    if any(rule["kind"] in ("placeholders", "sorted_lines", "postscript") for rule in rules):
        return text, rules
    long = [w for w in dict.fromkeys(text.split()) if len(w) > 3 and w.isalpha() and w.islower()]
    shouted = set(rng.sample(long, min(len(long), rng.randint(1, 3))))
    if not shouted:
        return text, rules
    made = "\n".join(
        " ".join(part.upper() if part in shouted else part for part in line.split(" ")) for line in text.split("\n")
    )
    n = sum(part in shouted for line in text.split("\n") for part in line.split(" "))
    return made, [*rules, {"kind": "capitals", "n": n}]


def _number(pen: Pen) -> tuple[object, Rule]:
    step, low = pen.rng.randint(2, 12), pen.rng.randint(1, 500)
    value = (low // step + pen.rng.randint(1, 9)) * step
    return value, {"type": "integer", "minimum": low, "maximum": value + pen.rng.randint(0, step), "multipleOf": step}


def _flag(pen: Pen) -> tuple[object, Rule]:
    return pen.rng.random() < 0.5, {"type": "boolean"}


def _choice(pen: Pen) -> tuple[object, Rule]:
    names = [pen.name() for _ in range(3)]
    return pen.rng.choice(names), {"type": "string", "enum": names}


def _code(pen: Pen) -> tuple[object, Rule]:
    letters, digits = pen.rng.randint(2, 4), pen.rng.randint(2, 5)
    value = "".join(pen.rng.choice("ABCDEFGH") for _ in range(letters)) + "-"
    value += "".join(pen.rng.choice("0123456789") for _ in range(digits))
    return value, {"type": "string", "pattern": f"[A-H]{{{letters}}}-[0-9]{{{digits}}}"}


def _names(pen: Pen) -> tuple[object, Rule]:
    n = pen.rng.randint(2, 5)
    shape: Rule = {"type": "string", "pattern": "[a-z]{3,8}"}
    value = [w for w in pen.different(40) if 3 <= len(w) <= 8][:n]
    return value, {"type": "array", "minItems": n, "maxItems": n, "uniqueItems": True, "items": shape}


def _object(pen: Pen) -> tuple[object, Rule]:
    (a, first), (b, second) = _number(pen), _choice(pen)
    keys = pen.name(), pen.name()
    return dict(zip(keys, (a, b), strict=True)), {
        "type": "object",
        "required": list(keys),
        "properties": dict(zip(keys, (first, second), strict=True)),
    }

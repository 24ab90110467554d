"""How rules are asked for: one sentence for each kind of the rulebook."""

from __future__ import annotations

import json
from typing import Any

Rule = dict[str, Any]

SENTENCES: dict[str, str] = {
    "words": "It has exactly {n} words.",
    "words_between": "It has between {low} and {high} words.",
    "sentences": "It has exactly {n} sentences.",
    "paragraphs": "It has exactly {n} paragraphs.",
    "lines": "It has exactly {n} lines.",
    "first_word": "Its first word is '{word}'.",
    "last_word": "Its last word is '{word}'.",
    "word_at": "Word number {n} of paragraph {paragraph} is '{word}'.",
    "contains": "The word '{word}' occurs exactly {n} times.",
    "without": "The word '{word}' does not occur.",
    "without_letter": "The letter '{letter}' does not occur anywhere.",
    "letters": "The letter '{letter}' occurs exactly {n} times, small and capital ones together.",
    "lowercase": "All letters are small ones.",
    "capitals": "Exactly {n} words of two or more letters are written in capitals throughout.",
    "bullets": "It has exactly {n} items, each on a line that begins with '{mark} ', and {others} other lines.",
    "numbered": "It has exactly {n} lines that begin with '1. ', '2. ' and so on, in order.",
    "title": "Its first line is a title of {n} words in double angle brackets, such as <<some title>>.",
    "placeholders": "It has exactly {n} placeholders such as [name], in square brackets and small letters.",
    "no_commas": "It has no comma.",
    "commas": "It has exactly {n} commas.",
    "sorted_lines": "Its lines are in alphabetical order.",
    "acrostic": "The first letters of its lines spell '{word}'.",
    "words_per_line": "Each line has exactly {n} words.",
    "line_length": "No line is longer than {n} characters.",
    "line_ends": "Each line ends with '{mark}'.",
    "line_starts": "Each line begins with the letter '{letter}'.",
    "rising": "Each line has more words than the one before it.",
    "alternate": "Lines are in turn all in capitals and all in small letters, beginning with capitals.",
    "indented": "The first line is not indented, and each line is indented by {n} blanks more than the one before it.",
    "quoted": "The whole text is in one pair of double quotes, and has none inside.",
    "postscript": "Its last paragraph begins with 'P.S. '.",
    "distinct": "No word occurs twice.",
    "longest": "No word has more than {n} letters.",
    "shortest": "No word has fewer than {n} letters.",
    "separated": "It has {n} parts, between which a line holds only '{mark}'.",
    "digits": "It has exactly {n} digits.",
    "framed": "Each paragraph ends with the word that it begins with.",
    "table": "It is a Markdown table of {columns} columns: head, line of dashes, and {rows} rows. No cell is empty.",
    "cell": "Column {column} of table row {row} holds '{word}' (the head is row 0).",
    "column_sorted": "The rows below the head are in alphabetical order of column {column}.",
    "json": "It is JSON and fits this schema: {schema}",
    "json_order": "The keys of the outer object come in this order: {keys}.",
    "json_indent": "It is laid out as Python's json.dumps with indent={n} does, without escaping.",
}


def asked(rule: Rule) -> str:
    """Return the sentence that asks for a rule."""
    shown = {key: _shown(value) for key, value in rule.items()}
    return SENTENCES[rule["kind"]].format(**shown)


def _shown(value: object) -> object:
    if isinstance(value, dict):
        return json.dumps(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else value

"""How facts, descriptions and questions are said."""

from __future__ import annotations

import datetime
import random

from palmette.envs.search.graph import Description, Entity, Value

# attribute -> sentences about {x} with the value {v}
_SENTENCES: dict[str, tuple[str, ...]] = {
    "person.born_in": ("{x} was born in {v}.", "{x} comes from {v}.", "The birthplace of {x} is {v}."),
    "person.lives_in": ("{x} lives in {v}.", "{x} has a house in {v}.", "The home of {x} is in {v}."),
    "person.works_for": ("{x} works for {v}.", "{x} is employed by {v}.", "The employer of {x} is {v}."),
    "person.profession": ("{x} is a {v} by profession.", "{x} earns a living as a {v}."),
    "person.birth": ("The date of birth of {x} is {v}.", "{x} was born on {v}."),
    "town.region": ("{x} is a town in the region {v}.", "{x} belongs to the region {v}."),
    "town.river": ("{x} lies on the river {v}.", "The river {v} runs through {x}."),
    "town.people": ("{v} people live in {x}.", "{x} has {v} inhabitants."),
    "firm.founder": ("{x} was founded by {v}.", "The founder of {x} is {v}."),
    "firm.seat": ("{x} has its seat in {v}.", "The head office of {x} is in {v}."),
    "firm.founded": ("{x} was founded in the year {v}.", "The year in which {x} was founded is {v}."),
    "firm.makes": ("{x} makes {v}.", "The business of {x} is {v}."),
    "book.author": ("{x} was written by {v}.", "The author of {x} is {v}."),
    "book.year": ("{x} came out in the year {v}.", "{x} was published in {v}."),
    "book.subject": ("{x} is a book about {v}.", "The subject of {x} is {v}."),
    "fair.held_in": ("{x} was held in {v}.", "The place of {x} was {v}."),
    "fair.winner": ("{x} was won by {v}.", "The winner of {x} was {v}."),
    "fair.year": ("{x} took place in the year {v}.", "The year of {x} was {v}."),
}
# attribute -> what is said of an entity that has it
_CLAUSES: dict[str, str] = {
    "person.born_in": "who was born in {v}",
    "person.lives_in": "who lives in {v}",
    "person.works_for": "who works for {v}",
    "person.profession": "who is a {v}",
    "person.birth": "who was born in the year {v}",
    "town.region": "in the region {v}",
    "town.river": "on the river {v}",
    "town.people": "that has {v} inhabitants",
    "firm.founder": "that was founded by {v}",
    "firm.seat": "that has its seat in {v}",
    "firm.founded": "that was founded in the year {v}",
    "firm.makes": "that makes {v}",
    "book.author": "that was written by {v}",
    "book.year": "that came out in the year {v}",
    "book.subject": "about {v}",
    "fair.held_in": "that was held in {v}",
    "fair.winner": "that was won by {v}",
    "fair.year": "that took place in the year {v}",
}
# attribute -> what is said of the entity that it leads to
_LED: dict[str, str] = {
    "person.born_in": "in which {v} was born",
    "person.lives_in": "in which {v} lives",
    "person.works_for": "that {v} works for",
    "firm.founder": "who founded {v}",
    "firm.seat": "in which {v} has its seat",
    "book.author": "who wrote {v}",
    "fair.held_in": "in which {v} was held",
    "fair.winner": "who won {v}",
}
_QUESTIONS: dict[str, str] = {
    "person.born_in": "In which town was {x} born?",
    "person.lives_in": "In which town does {x} live?",
    "person.works_for": "Which firm does {x} work for?",
    "person.profession": "What is the profession of {x}?",
    "person.birth": "On which date was {x} born?",
    "town.region": "In which region is {x}?",
    "town.river": "On which river is {x}?",
    "town.people": "How many people live in {x}?",
    "firm.founder": "Who founded {x}?",
    "firm.seat": "In which town does {x} have its seat?",
    "firm.founded": "In which year was {x} founded?",
    "firm.makes": "What does {x} make?",
    "book.author": "Who wrote {x}?",
    "book.year": "In which year did {x} come out?",
    "book.subject": "What is {x} about?",
    "fair.held_in": "In which town was {x} held?",
    "fair.winner": "Who won {x}?",
    "fair.year": "In which year did {x} take place?",
}
# attribute -> all that lead to one entity, the attribute that orders them, and how that is said of several and of one
GROUPS: dict[str, tuple[str, str, str, str]] = {
    "person.works_for": ("people who work for {v}", "birth", "were born before {y}", "was born {which}"),
    "person.born_in": ("people who were born in {v}", "birth", "were born before {y}", "was born {which}"),
    "firm.seat": ("firms that have their seat in {v}", "founded", "were founded before {y}", "was founded {which}"),
    "book.author": ("books that were written by {v}", "year", "came out before {y}", "came out {which}"),
}


def said(value: Value) -> str:
    """Return a value as pages write it."""
    if isinstance(value, datetime.date):
        return f"{value.day} {value:%B} {value.year}"
    return f"{value:,}" if isinstance(value, int) and value > 3000 else str(value)


def sentence(entity: Entity, key: str, value: Value, rng: random.Random) -> str:
    """Return a sentence that says a fact, in one of several ways."""
    return rng.choice(_SENTENCES[f"{entity.kind}.{key}"]).format(x=entity.name, v=said(value))


def described(what: Description) -> str:
    """Return a description as a noun phrase."""
    if what.name:
        return what.name
    clauses = [_CLAUSES[f"{what.kind}.{key}"].format(v=said(value)) for key, value in what.plain.items()]
    clauses += [_CLAUSES[f"{what.kind}.{key}"].format(v=described(inner)) for key, inner in what.leads.items()]
    clauses += [_LED[f"{kind}.{key}"].format(v=described(inner)) for kind, key, inner in what.led]
    return f"the {what.kind} {' and '.join(clauses)}"


def question(what: Description, key: str) -> str:
    """Return the question for an attribute of what is described."""
    return _QUESTIONS[f"{what.kind}.{key}"].format(x=described(what))


def search_words(kind: str, key: str) -> list[str]:
    """Return words that pages use to say an attribute, for queries."""
    return [form.format(x="", v="").strip(" .").replace("  ", " ") for form in _SENTENCES[f"{kind}.{key}"]]

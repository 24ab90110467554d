"""Small changes of a small page, the whole of tier 1: one sentence, one place to find, one line to write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from palmette.envs.terminal.goals import Names
from palmette.envs.web.plan import Step, click, see

_COLOURS = {
    "red": "rgb(255, 0, 0)",
    "green": "rgb(0, 128, 0)",
    "blue": "rgb(0, 0, 255)",
    "purple": "rgb(128, 0, 128)",
    "navy": "rgb(0, 0, 128)",
    "brown": "rgb(165, 42, 42)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """A page of one line an element, as it is found: file, title, heading, paragraph and button with their ids."""

    path: str
    title: str
    heading: str
    paragraph: tuple[str, str]  # id, text
    button: tuple[str, str]

    def lines(self) -> list[str]:
        """Return its lines."""
        return [
            "<!doctype html>",
            f"<title>{self.title}</title>",
            f"<h1>{self.heading}</h1>",
            f'<p id="{self.paragraph[0]}">{self.paragraph[1]}</p>',
            f'<button id="{self.button[0]}">{self.button[1]}</button>',
        ]

    def text(self) -> str:
        """Return the file."""
        return "".join(f"{line}\n" for line in self.lines())


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change and what shows it: an edit (old line, new line) after reading, or a command; then looks and acts.

    `touches` names the elements that may be other than they were: "title", "heading", "paragraph", "button".
    """

    skill: str
    sentence: str
    steps: tuple[Step, ...]
    edit: tuple[str, str] | None = None
    command: str = ""
    line: str = ""  # the line of the page that it is about, which no other change may be about
    touches: frozenset[str] = field(default_factory=frozenset)


def make_stub(n: Names) -> Stub:
    """Return a page of invented names."""
    return Stub(
        path=f"{n.word()}.html",
        title=n.word(),
        heading=n.word(),
        paragraph=(n.word(), n.word()),
        button=(n.word(), n.word()),
    )


def title(n: Names, stub: Stub) -> Change:
    """Another title."""
    new = n.word()
    return Change(
        skill="title",
        sentence=f"Change the title of {stub.path} to {new}.",
        steps=({"do": "title", "text": new},),
        edit=(f"<title>{stub.title}</title>", f"<title>{new}</title>"),
        touches=frozenset({"title"}),
    )


def heading(n: Names, stub: Stub) -> Change:
    """Another heading."""
    new = n.word()
    return Change(
        skill="heading",
        sentence=f"Change the heading of {stub.path} to {new}.",
        steps=(see("h1", count=1, text=new),),
        edit=(f"<h1>{stub.heading}</h1>", f"<h1>{new}</h1>"),
        touches=frozenset({"heading"}),
    )


def text(n: Names, stub: Stub) -> Change:
    """Another text in the element of an id, which is to be found."""
    new, kind = n.word(), n.rng.choice(("paragraph", "button"))
    name, old = stub.paragraph if kind == "paragraph" else stub.button
    tag = "p" if kind == "paragraph" else "button"
    return Change(
        skill="text",
        sentence=f"Change the text of {name} in {stub.path} to {new}.",
        steps=(see(f"#{name}", count=1, text=new),),
        edit=(f'<{tag} id="{name}">{old}</{tag}>', f'<{tag} id="{name}">{new}</{tag}>'),
        touches=frozenset({kind}),
    )


def colour(n: Names, stub: Stub) -> Change:
    """A colour for a paragraph's text."""
    name, (identity, old) = n.rng.choice(sorted(_COLOURS)), stub.paragraph
    return Change(
        skill="colour",
        sentence=f"Make the text of {identity} in {stub.path} {name}.",
        steps=(see(f"#{identity}", count=1, text=old, style={"color": _COLOURS[name]}),),
        edit=(f'<p id="{identity}">{old}</p>', f'<p id="{identity}" style="color: {name}">{old}</p>'),
    )


def react(n: Names, stub: Stub) -> Change:
    """A button whose text changes when it is clicked."""
    new, (identity, old) = n.word(), stub.button
    return Change(
        skill="react",
        sentence=f"A click on {identity} in {stub.path} shall change its text to {new}.",
        steps=(see(f"#{identity}", count=1, text=old), click(f"#{identity}"), see(f"#{identity}", text=new)),
        edit=(
            f'<button id="{identity}">{old}</button>',
            f'<button id="{identity}" onclick="this.textContent = \'{new}\'">{old}</button>',
        ),
    )


def drop(n: Names, stub: Stub) -> Change:
    """An element less."""
    identity = stub.paragraph[0]
    return Change(
        skill="drop",
        sentence=f"Remove {identity} from {stub.path}.",
        steps=(see("p", count=0),),
        command=f"sed -i /{identity}/d {stub.path}",
        line=f'<p id="{identity}">{stub.paragraph[1]}</p>',
        touches=frozenset({"paragraph"}),
    )


def add_button(n: Names, stub: Stub) -> Change:
    """A button more."""
    identity, said = n.word(), n.word()
    return Change(
        skill="add_button",
        sentence=f"Add the button {said} with the id {identity} at the end of {stub.path}.",
        steps=(see(f"button#{identity}", count=1, text=said),),
        command=f"echo '<button id=\"{identity}\">{said}</button>' >> {stub.path}",
    )


def add_link(n: Names, stub: Stub) -> Change:
    """A link more."""
    target, said = f"{n.word()}.html", n.word()
    return Change(
        skill="add_link",
        sentence=f"Add the link {said} to {target} at the end of {stub.path}.",
        steps=(see("a", count=1, text=said, attributes={"href": target}),),
        command=f"echo '<a href=\"{target}\">{said}</a>' >> {stub.path}",
    )


CHANGES: tuple[Callable[[Names, Stub], Change], ...] = (
    title,
    heading,
    text,
    colour,
    react,
    drop,
    add_button,
    add_link,
)


def unchanged(stub: Stub, touched: frozenset[str]) -> list[Step]:
    """Return looks at what no change was asked for."""
    steps: list[Step] = []
    if "title" not in touched:
        steps.append({"do": "title", "text": stub.title})
    if "heading" not in touched:
        steps.append(see("h1", count=1, text=stub.heading))
    for kind, (name, said) in (("paragraph", stub.paragraph), ("button", stub.button)):
        if kind not in touched:
            steps.append(see(f"#{name}", count=1, text=said))
    return steps

"""A list of items read into messages, and where in it reading can go on."""

from __future__ import annotations

from dataclasses import dataclass

from palmette.chat.message import Message, ToolCall

_PLACES = 6  # agents change what they sent at the end (a mark on the last two turns, a message replaced), not before


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Behind so many items, which said so many messages: what follows is read alike wherever these come from.

    `calls` and `unanswered` (calls without a result so far) are for dialects in which a result need not name its call.
    """

    items: int = 0
    messages: int = 0
    calls: int = 0
    unanswered: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What items say, and the last few places in them, the latest last; not every item has a place behind it."""

    messages: tuple[Message, ...] = ()
    places: tuple[Place, ...] = (Place(),)

    @property
    def end(self) -> Place:
        """The last place."""
        return self.places[-1]

    def up_to(self, place: Place) -> Told:
        """Return what was told before one of the places."""
        kept = self.places[: self.places.index(place) + 1]
        return Told(messages=self.messages[: place.messages], places=kept)

    def onward(self, messages: list[Message], places: list[Place]) -> Told:
        """Return this and what `messages` say behind its end."""
        return Told(messages=(*self.messages, *messages), places=(*self.places, *places)[-_PLACES:])


NOTHING = Told()

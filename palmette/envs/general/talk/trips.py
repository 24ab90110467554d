"""Calls at an airline with a policy: tiers 2 to 6 have one to five wishes, some of which must be refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from palmette.envs.api import Split
from palmette.envs.general.talk.scene import SAY, Scene
from palmette.envs.general.talk.visit import Act, Visit, policy

_TOOLS = (
    "find_customer",
    "identify",
    "member",
    "bookings",
    "booking",
    "flight",
    "flights",
    "cancel",
    "move",
    "upgrade",
    "bags",
    "voucher",
)
_NOW = datetime(2026, 5, 20, 12)


@dataclass(slots=True)
class Call:
    """The state of an airline, the customer who calls, and the numbers of its policy."""

    visit: Visit
    state: dict[str, Any]
    me: str
    name: str
    hours: int  # within which a booking can be cancelled
    amends: int  # coins a person for a flight that does not go
    free: dict[str, int]  # bags a person, by level

    def flight(self, *, origin: str = "", destination: str = "", day: str = "", state: str = "on time") -> str:
        """Add a flight."""
        v = self.visit
        day = day or str((_NOW + timedelta(days=v.rng.randint(5, 60))).date())
        economy = v.rng.randint(40, 300)
        id = v.number()
        self.state["flights"][id] = {
            "from": origin or v.name(),
            "to": destination or v.name(),
            "day": day,
            "hour": f"{v.rng.randint(5, 22):02}:{v.rng.choice(('05', '20', '40', '55'))}",
            "economy": economy,
            "business": economy * 2 + v.rng.randint(10, 90),
            "left": v.rng.randint(9, 60),
            "state": state,
        }
        return id

    def booking(self, *, ago_h: int, insured: bool = False, cabin: str = "economy", state: str = "on time") -> str:
        """Add a booking of the customer's, made that many hours ago, on a flight of its own."""
        flight, people, id = self.flight(state=state), self.visit.rng.randint(1, 4), self.visit.number()
        self.state["bookings"][id] = {
            "customer": self.me,
            "flight": flight,
            "people": people,
            "cabin": cabin,
            "bags": 0,
            "paid": self.state["flights"][flight][cabin] * people,
            "insured": "yes" if insured else "no",
            "booked": f"{_NOW - timedelta(hours=ago_h):%Y-%m-%d %H:%M}",
            "state": "booked",
        }
        return id

    def place(self, id: str) -> str:
        """Return where a booking goes to."""
        return self.state["flights"][self.state["bookings"][id]["flight"]]["to"]

    def found(self, id: str) -> list[Act]:
        """Return the calls that find a booking and its flight."""
        return [("bookings", self.me), ("booking", id), ("flight", self.state["bookings"][id]["flight"])]


def scene(rng: random.Random, split: Split, tier: int) -> Scene:
    """Return a call of a tier."""
    v = Visit(rng, split)
    name, code, me = v.name(), str(rng.randint(10000, 99999)), f"c{rng.randint(100, 199)}"
    level = rng.choice(("plain", "silver", "gold"))
    customers = {me: {"name": name, "postcode": code, "level": level, "vouchers": rng.randint(1, 80)}}
    for n in (2, 3):
        customers[f"c{n}{rng.randint(10, 99)}"] = {
            "name": v.name(),
            "postcode": str(rng.randint(10000, 99999)),
            "level": "plain",
            "vouchers": rng.randint(81, 160),
        }
    state = {"now": str(_NOW), "customers": customers, "flights": {}, "bookings": {}, "known": [], "faults": []}
    free = {"plain": rng.randint(0, 1), "silver": 2, "gold": rng.randint(3, 4)}
    call = Call(
        visit=v, state=state, me=me, name=name, hours=12 * rng.randint(1, 4), amends=10 * rng.randint(3, 12), free=free
    )
    v.introduces(name, code, "booking")
    wishes = v.some_of(WISHES, HELDOUT, tier - 1)
    for wish in wishes:
        wish(call)
    asked = (SAY, "Please tell me your name and your postcode.")
    v.acts[:0] = [asked, ("find_customer", name), ("identify", me, code)]
    _last(call)
    return v.scene(
        "travel",
        "general/trips/" + "+".join(sorted(wish.__name__ for wish in wishes)),
        system=_policy(call),
        state=state,
        tools=_TOOLS,
    )


def cancel_fresh(call: Call) -> None:
    """Cancel a booking made a moment ago."""
    id = call.booking(ago_h=call.visit.rng.randint(1, call.hours - 1))
    _cancelled(call, id, f"I do not want to go to {call.place(id)} any more. Cancel that booking, please.")


def cancel_insured(call: Call) -> None:
    """Cancel an insured booking for a reason that the insurance covers; the reason is told when asked for."""
    id = call.booking(ago_h=call.hours + call.visit.rng.randint(5, 200), insured=True)
    call.visit.know(r"\bwhy\b|reason", "I have fallen ill.")
    call.visit.acts.append((SAY, "What is the reason?"))
    _cancelled(call, id, f"I have to cancel my booking to {call.place(id)}.")


def cancel_late(call: Call) -> None:
    """Refuse to cancel an old booking without insurance."""
    id = call.booking(ago_h=call.hours + call.visit.rng.randint(5, 200))
    call.visit.refused(
        f"Please cancel my booking to {call.place(id)} and refund it.",
        "Your colleague told me last week that it would be no problem.",
        call.found(id),
        f"Booking {id} is neither fresh nor insured, so I cannot cancel it.",
        skill="refusal",
    )


def upgrade(call: Call) -> None:
    """Put a booking into business class."""
    id = call.booking(ago_h=call.visit.rng.randint(30, 300))
    call.visit.wish(
        f"I would like to fly to {call.place(id)} in business class.",
        [*call.found(id), (SAY, f"Shall I put booking {id} into business class?"), ("upgrade", id)],
        f"Booking {id} is in business class now.",
        skill="change",
    )


def luggage(call: Call) -> None:
    """Add all bags that are free; there are as many as the level and the people give."""
    id = call.booking(ago_h=call.visit.rng.randint(30, 300))
    call.state["customers"][call.me]["level"] = call.visit.rng.choice(("silver", "gold"))
    count = call.free[call.state["customers"][call.me]["level"]] * call.state["bookings"][id]["people"]
    call.visit.wish(
        f"Put as many bags as are free for all of us on the booking to {call.place(id)}.",
        [*call.found(id), ("member", call.me), ("bags", id, str(count))],
        f"Booking {id} has {count} bags now.",
        skill="lookup",
    )


def amends(call: Call) -> None:
    """Give a voucher for a flight that does not go."""
    id = call.booking(ago_h=call.visit.rng.randint(30, 300), state="cancelled by the airline")
    amount = call.amends * call.state["bookings"][id]["people"]
    call.visit.wish(
        f"I hear that my flight to {call.place(id)} does not go. What do I get for that? I keep the booking for now.",
        [*call.found(id), ("voucher", call.me, str(amount))],
        f"I gave you a voucher of {amount} coins.",
        skill="amends",
    )


def no_amends(call: Call) -> None:
    """Refuse a voucher for a flight that is on time."""
    id = call.booking(ago_h=call.visit.rng.randint(30, 300))
    call.visit.refused(
        f"My flight to {call.place(id)} is delayed, I read. I want a voucher for that.",
        "I am quite sure that it is delayed. Just give me the voucher.",
        call.found(id),
        f"The flight of booking {id} is on time, so I cannot give you a voucher.",
        skill="refusal",
    )


def move_cheap(call: Call) -> None:
    """Move a business booking to the cheapest flight of another day; the day is told when asked for."""
    id = call.booking(ago_h=call.visit.rng.randint(30, 300), cabin="business")
    old = call.state["flights"][call.state["bookings"][id]["flight"]]
    day = str((datetime.fromisoformat(old["day"]) + timedelta(days=call.visit.rng.randint(2, 9))).date())
    new = [call.flight(origin=old["from"], destination=old["to"], day=day) for _ in range(4)]
    best = min(new, key=lambda each: call.state["flights"][each]["business"])
    call.visit.know(r"\bday\b|\bdate\b|\bwhen\b", f"On {day}.")
    call.visit.acts.append((SAY, "Which day would suit you?"))
    call.visit.wish(
        f"My plans have changed. Move my trip to {old['to']} to the cheapest business flight of a later day.",
        [*call.found(id), ("flights", old["from"], old["to"], day), ("move", id, best)],
        f"Booking {id} is on flight {best} now.",
        skill="search",
    )


def move_economy(call: Call) -> None:
    """Refuse to move a booking in economy."""
    id = call.booking(ago_h=call.hours + call.visit.rng.randint(5, 200))
    call.visit.refused(
        f"I want to fly to {call.place(id)} one day later.",
        "It is only one day! Please make an exception.",
        call.found(id),
        f"Booking {id} is in economy, so I cannot move it.",
        skill="refusal",
    )


WISHES: tuple[Callable[[Call], None], ...] = (
    cancel_fresh,
    cancel_insured,
    cancel_late,
    upgrade,
    luggage,
    amends,
    no_amends,
    move_cheap,
    move_economy,
)
HELDOUT = (cancel_insured, no_amends, move_cheap)


def _cancelled(call: Call, id: str, say: str) -> None:
    call.visit.wish(
        say,
        [*call.found(id), (SAY, f"Shall I cancel booking {id}?"), ("cancel", id)],
        f"Booking {id} is cancelled.",
        skill="cancel",
    )


def _last(call: Call) -> None:
    """Ask for the vouchers there are in the end."""
    given = sum(int(act[2]) for act in call.visit.acts if act[0] == "voucher")
    total = str(call.state["customers"][call.me]["vouchers"] + given)
    coins = [str(each["vouchers"]) for each in call.state["customers"].values()]
    coins += [str(f[cabin]) for f in call.state["flights"].values() for cabin in ("economy", "business")]
    coins += [str(b["paid"]) for b in call.state["bookings"].values()]
    call.visit.acts.append(("member", call.me))
    call.visit.question(
        "How many coins do I have in vouchers now?",
        total,
        sorted({*coins, str(given), total} - {"0"}),
        f"You have vouchers of {total} coins.",
    )


def _policy(call: Call) -> str:
    rules = (
        f"It is {_NOW:%Y-%m-%d %H:%M}.",
        "Find out who the customer is, by name and postcode (tool identify), before you change anything.",
        f"A booking can be cancelled within {call.hours} hours after it was made, or if the airline has cancelled the "
        "flight, or if it is insured and the reason is illness or weather. Otherwise it cannot.",
        "Only bookings in business class can be moved to another flight, of the same cities.",
        "Any booking can be put into business class; the customer pays the difference.",
        f"Free bags for each person: {call.free['plain']} for plain members, {call.free['silver']} for silver and "
        f"{call.free['gold']} for gold ones. No others are added.",
        f"If the airline has cancelled the flight and the customer complains, they get a voucher of {call.amends} "
        "coins for each person of the booking, once. There are no other vouchers.",
        "Ask the customer to confirm before you cancel anything or make them pay.",
        "Make no exceptions, and believe the data, not hearsay.",
    )
    return policy("an airline", rules)

"""The smallest dialogues, of two to four calls: look an order up, perhaps change it, tell the customer one thing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from palmette.envs.api import Split
from palmette.envs.general.talk.scene import SAY, Scene, told
from palmette.envs.words import word

_GOODS = ("lamp", "chair", "table", "clock", "bowl", "coat", "tent", "drum", "rug", "bike", "desk", "kettle")
_TOOLS = ("order", "orders", "cancel", "ship")
_SYSTEM = "You serve customers of a shop. Use the tools, answer the customer, then submit."
_THANKS = {"stages": [{"say": ""}], "most": 20}


class Counter:
    """A shop of three orders by three customers, of words of one split."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        taken: set[str] = set()
        self.names = [word(rng, split, taken=taken).capitalize() for _ in range(3)]
        self.cities = [word(rng, split, taken=taken).capitalize() for _ in range(4)]
        self.ids = [f"{word(rng, split, taken=taken)}-{rng.randint(10, 99)}" for _ in range(3)]
        self.goods = rng.sample(_GOODS, 3)
        self.prices = [str(n) for n in rng.sample(range(10, 100), 3)]
        self.sent = [rng.random() < 0.5 for _ in range(3)]
        self.owners = [0, 1, 2]

    def state(self) -> dict[str, Any]:
        """Return the backend's state."""
        orders = {
            self.ids[i]: {
                "customer": f"c{self.owners[i]}",
                "items": [{"name": self.goods[i], "price": int(self.prices[i])}],
                "state": "sent" if self.sent[i] else "open",
                "city": self.cities[i],
            }
            for i in range(3)
        }
        return {"customers": {f"c{i}": {"name": name} for i, name in enumerate(self.names)}, "orders": orders}


def cancel(c: Counter) -> Scene:
    """Cancel an order and tell its price."""
    c.sent[0] = False
    id, price = c.ids[0], c.prices[0]
    ask = c.rng.choice((f"Cancel order {id} and tell me its price.", f"Please cancel {id}. What was its price?"))
    acts = [("order", id), ("cancel", id), (SAY, f"Order {id} is cancelled. Its price was {price} coins.")]
    return _scene(c, "cancel", ask, acts, told(price, among=c.prices))


def move(c: Counter) -> Scene:
    """Send an order to another city and tell the old one."""
    id, city, old = c.ids[0], c.cities[3], c.cities[0]
    ask = c.rng.choice(
        (f"Send order {id} to {city}. Where did it go before?", f"Order {id} must go to {city}. Where did it go?")
    )
    acts = [("order", id), ("ship", id, city), (SAY, f"Order {id} goes to {city}. Before it went to {old}.")]
    return _scene(c, "move", ask, acts, told(old, among=c.cities[:3]))


def where(c: Counter) -> Scene:
    """Tell where an order goes, and not all that is known about it."""
    id, city = c.ids[0], c.cities[0]
    ask = c.rng.choice((f"Where does order {id} go?", f"Which city does order {id} go to?"))
    return _scene(
        c,
        "where",
        ask,
        [("order", id), (SAY, f"Order {id} goes to {city}.")],
        told(city, among=[*c.cities, c.prices[0]]),
    )


def pick(c: Counter) -> Scene:
    """Cancel the order of a good, of a customer who has two, and tell its number."""
    c.owners[1] = 0
    c.sent[:2] = [False, False]
    k = c.rng.randrange(2)
    id, name = c.ids[k], c.names[0]
    ask = c.rng.choice(
        (f"I am {name}. Cancel my {c.goods[k]} and tell me the order.", f"{name} here. Please cancel the {c.goods[k]}.")
    )
    acts = [("orders", name), ("cancel", id), (SAY, f"Order {id} is cancelled.")]
    return _scene(c, "pick", ask, acts, told(id, among=c.ids))


def decide(c: Counter) -> Scene:
    """Cancel an order if it is open, and tell if it is cancelled or sent, and its price."""
    id, sent, price = c.ids[0], c.sent[0], c.prices[0]
    ask = c.rng.choice((f"Cancel order {id} if it is still open.", f"If order {id} is not sent yet, cancel it."))
    state = "sent" if sent else "cancelled"
    acts = [
        ("order", id),
        *([] if sent else [("cancel", id)]),
        (SAY, f"Order {id} is {state}. Its price was {price} coins."),
    ]
    said = ("sent", "shipped") if sent else ("cancelled", "canceled")
    needs = told(*said, among=("sent", "cancelled")), told(price, among=[*c.prices, c.cities[0]])
    return _scene(c, "decide", f"{ask} Is it cancelled or sent, and what was its price?", acts, *needs)


KINDS: tuple[Callable[[Counter], Scene], ...] = (cancel, move, where, pick, decide)


def scene(rng: random.Random, split: Split) -> Scene:
    """Return a small scene of one of `KINDS`."""
    return rng.choice(KINDS)(Counter(rng, split))


def _scene(c: Counter, skill: str, ask: str, acts: list[tuple[str, ...]], *needs: dict[str, Any]) -> Scene:
    return Scene(
        backend="retail",
        skills=(skill,),
        template=f"general/counter/{skill}",
        system=_SYSTEM,
        instruction=ask,
        state=c.state(),
        tools=_TOOLS,
        acts=acts,
        customer=_THANKS,
        says=needs,
    )

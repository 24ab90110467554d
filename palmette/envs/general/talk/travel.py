"""The backend of an airline: flights and bookings. The tools do as told; what is allowed is the policy's affair.

State: {"now", "customers", "flights": {id: {...}}, "bookings": {id: {...}}} and what the desk keeps. This file stands
alone, because it is copied into tasks.
"""

from __future__ import annotations


def bookings(state: dict, customer: str) -> str:
    """Return the bookings of a customer."""
    return ", ".join(id for id, each in state["bookings"].items() if each["customer"] == customer) or "none"


def booking(state: dict, id: str) -> str:
    """Return what is known about a booking."""
    b = _booking(state, id)
    return (
        f"{id}: customer {b['customer']}, flight {b['flight']}, {b['people']} in {b['cabin']}, {b['bags']} bags, paid "
        f"{b['paid']}, insured: {b['insured']}, booked {b['booked']}, {b['state']}"
    )


def flight(state: dict, id: str) -> str:
    """Return what is known about a flight."""
    f = _flight(state, id)
    return (
        f"{id}: {f['from']} to {f['to']}, {f['day']} {f['hour']}, economy {f['economy']}, business {f['business']}, "
        f"{f['left']} seats left, {f['state']}"
    )


def flights(state: dict, origin: str, destination: str, day: str) -> str:
    """Return the flights between two cities on a day."""
    wanted = (origin.lower(), destination.lower(), day)
    found = [id for id, f in state["flights"].items() if (f["from"].lower(), f["to"].lower(), f["day"]) == wanted]
    return "\n".join(flight(state, id) for id in found) or "none"


def cancel(state: dict, id: str) -> str:
    """Cancel a booking; what was paid goes back."""
    _booked(state, id)["state"] = "cancelled"
    return f"ok, {_booking(state, id)['paid']} coins back"


def move(state: dict, id: str, new: str) -> str:
    """Move a booking to another flight; the difference is paid or goes back."""
    b, f = _booked(state, id), _flight(state, new)
    if f["left"] < b["people"]:
        raise ValueError(f"{new} is full")
    f["left"] -= b["people"]
    _flight(state, b["flight"])["left"] += b["people"]
    price, paid = f[b["cabin"]] * b["people"], b["paid"]
    b["flight"], b["paid"] = new, price
    return f"ok, {abs(price - paid)} coins {'to pay' if price > paid else 'back'}"


def upgrade(state: dict, id: str) -> str:
    """Put a booking into business class; the difference is paid."""
    b = _booked(state, id)
    if b["cabin"] == "business":
        raise ValueError(f"{id} is in business already")
    price = _flight(state, b["flight"])["business"] * b["people"]
    told = f"ok, {price - b['paid']} coins to pay"
    b["cabin"], b["paid"] = "business", price
    return told


def bags(state: dict, id: str, count: str) -> str:
    """Set the number of bags of a booking."""
    if not count.isdigit() or int(count) > 20:
        raise ValueError("count is a whole number up to 20")
    _booked(state, id)["bags"] = int(count)
    return "ok"


def voucher(state: dict, id: str, amount: str) -> str:
    """Give a customer a voucher."""
    if id not in state["customers"] or not amount.isdigit() or not 0 < int(amount) <= 10000:
        raise ValueError("a customer, and a whole number of coins")
    state["customers"][id]["vouchers"] += int(amount)
    return "ok"


def member(state: dict, id: str) -> str:
    """Return level and vouchers of a customer."""
    if id not in state["customers"]:
        raise LookupError(f"no customer {id[:40]}")
    found = state["customers"][id]
    return f"{id}: {found['name']}, {found['level']}, vouchers of {found['vouchers']} coins"


def owner(state: dict, id: str) -> str:
    """Return the customer whom a change of a booking, or of a customer, concerns; "" where there is none."""
    return state["bookings"][id]["customer"] if id in state["bookings"] else id if id in state["customers"] else ""


def outcome(state: dict) -> dict:
    """Return what counts at the end."""
    return state


CHANGES = ("cancel", "move", "upgrade", "bags", "voucher")
TOOLS = {
    "bookings": (bookings, "bookings of a customer", ("customer",)),
    "booking": (booking, "look up a booking", ("id",)),
    "flight": (flight, "look up a flight", ("id",)),
    "flights": (flights, "flights between two cities on a day", ("origin", "destination", "day")),
    "cancel": (cancel, "cancel a booking", ("id",)),
    "move": (move, "move a booking to another flight", ("id", "new")),
    "upgrade": (upgrade, "put a booking into business class", ("id",)),
    "bags": (bags, "set the number of bags of a booking", ("id", "count")),
    "voucher": (voucher, "give a customer a voucher", ("id", "amount")),
    "member": (member, "level and vouchers of a customer", ("id",)),
}


def _booking(state: dict, id: str) -> dict:
    if id not in state["bookings"]:
        raise LookupError(f"no booking {id[:40]}")
    return state["bookings"][id]


def _booked(state: dict, id: str) -> dict:
    """Return a booking that can still be changed."""
    if _booking(state, id)["state"] != "booked":
        raise ValueError(f"{id} is {_booking(state, id)['state']}")
    return _booking(state, id)


def _flight(state: dict, id: str) -> dict:
    if id not in state["flights"]:
        raise LookupError(f"no flight {id[:40]}")
    return state["flights"][id]

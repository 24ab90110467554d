"""The backend of a shop: customers, orders, goods. The tools do as told; what is allowed is the policy's affair.

State: {"today", "customers": {id: {...}}, "orders": {id: {...}}, "goods": {name: {...}}} and what the desk keeps. This
file stands alone, because it is copied into tasks.
"""

from __future__ import annotations


def order(state: dict, id: str) -> str:
    """Return one line about an order, or one line an item where it has several."""
    found = _order(state, id)
    items = found["items"]
    place = f"{found['state']}, to {found['city']}"
    if "placed" not in found:
        return f"{id}: {items[0]['name']}, {items[0]['price']} coins, {place}"
    dates = f"placed {found['placed']}" + (f", delivered {found['delivered']}" if found.get("delivered") else "")
    lines = [f"{id}: customer {found['customer']}, {place}, {dates}, paid by {found['pay']}"]
    lines += [f"- {each['name']}: {each['price']} coins{_marks(each)}" for each in items]
    return "\n".join(lines)


def orders(state: dict, name: str) -> str:
    """Return the orders of a customer, by name or number."""
    lines = []
    for id, found in state["orders"].items():
        customer = state["customers"][found["customer"]]
        if name.lower() in (customer["name"].lower(), found["customer"]):
            lines.append(f"{id} {', '.join(each['name'] for each in found['items'])}")
    return "\n".join(lines) or "none"


def customer(state: dict, id: str) -> str:
    """Return what is known about a customer, the postcode left out."""
    found = _customer(state, id)
    return f"{id}: {found['name']}, {found['level']} member, store credit {found['credit']} coins"


def cancel(state: dict, id: str) -> str:
    """Cancel an order; what was paid goes back."""
    found = _order(state, id)
    if found["state"] in ("cancelled", "returned"):
        raise ValueError(f"{id} is {found['state']}")
    found["state"] = "cancelled"
    return "ok"


def ship(state: dict, id: str, city: str) -> str:
    """Send an order to another city."""
    _order(state, id)["city"] = city
    return "ok"


def give_back(state: dict, id: str, item: str, refund: str) -> str:
    """Take an item back; `refund` is the way that the customer paid, or credit."""
    found = _order(state, id)
    each = _item(found, id, item)
    if refund not in (found["pay"], "credit"):
        raise ValueError(f"refund is {found['pay']} or credit")
    each["back"] = refund
    if refund == "credit":
        state["customers"][found["customer"]]["credit"] += each["price"]
    return f"ok, {each['price']} coins by {refund}"


def exchange(state: dict, id: str, item: str, new: str) -> str:
    """Exchange an item for another of the shop's."""
    found = _order(state, id)
    each = _item(found, id, item)
    good = _good(state, new)
    if good["left"] < 1:
        raise ValueError(f"{new} is out of stock")
    good["left"] -= 1
    paid = each["price"]
    each.update(name=new, price=good["price"], sale=False)
    return (
        f"ok, {good['price'] - paid} coins to pay" if good["price"] > paid else f"ok, {paid - good['price']} coins back"
    )


def credit(state: dict, id: str, amount: str) -> str:
    """Give a customer store credit."""
    if not amount.isdigit() or not 0 < int(amount) <= 10000:
        raise ValueError("amount is a whole number of coins")
    _customer(state, id)["credit"] += int(amount)
    return "ok"


def good(state: dict, name: str) -> str:
    """Return price and stock of a good."""
    found = _good(state, name)
    return f"{name}: {found['price']} coins, {found['left']} left, {found['kind']}"


def goods(state: dict, kind: str) -> str:
    """Return the goods of a kind, one a line."""
    lines = [f"{name}: {g['price']} coins, {g['left']} left" for name, g in state["goods"].items() if g["kind"] == kind]
    return "\n".join(lines) or "none"


def owner(state: dict, id: str) -> str:
    """Return the customer whom a change of an order, or of a customer, concerns; "" where there is none."""
    return state["orders"][id]["customer"] if id in state["orders"] else id if id in state["customers"] else ""


def outcome(state: dict) -> dict:
    """Return what counts at the end."""
    return state


CHANGES = ("cancel", "ship", "give_back", "exchange", "credit")


TOOLS = {
    "order": (order, "look up an order", ("id",)),
    "orders": (orders, "orders of a customer", ("name",)),
    "cancel": (cancel, "cancel an order", ("id",)),
    "ship": (ship, "send an order to a city", ("id", "city")),
    "customer": (customer, "look up a customer", ("id",)),
    "give_back": (
        give_back,
        "take an item of an order back, refund by the way paid or credit",
        ("id", "item", "refund"),
    ),
    "exchange": (exchange, "exchange an item of an order for another good", ("id", "item", "new")),
    "credit": (credit, "give a customer store credit", ("id", "amount")),
    "good": (good, "price and stock of a good", ("name",)),
    "goods": (goods, "goods of a kind", ("kind",)),
}


def _order(state: dict, id: str) -> dict:
    if id not in state["orders"]:
        raise LookupError(f"no order {id[:40]}")
    return state["orders"][id]


def _customer(state: dict, id: str) -> dict:
    if id not in state["customers"]:
        raise LookupError(f"no customer {id[:40]}")
    return state["customers"][id]


def _good(state: dict, name: str) -> dict:
    if name not in state["goods"]:
        raise LookupError(f"no good {name[:40]}")
    return state["goods"][name]


def _item(found: dict, id: str, name: str) -> dict:
    for each in found["items"]:
        if each["name"] == name and not each.get("back"):
            return each
    raise LookupError(f"no {name[:40]} in {id}")


def _marks(each: dict) -> str:
    return (", sale" if each.get("sale") else "") + (f", taken back ({each['back']})" if each.get("back") else "")

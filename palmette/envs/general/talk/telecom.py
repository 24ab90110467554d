"""The backend of a mobile network: lines, bills, plans; and the customer's telephone, which only they can operate.

State: {"customers", "lines": {number: {...}}, "bills": {id: {...}}, "plans": {name: {...}}, "device": {...}, "abroad"}
and what the desk keeps. This file stands alone, because it is copied into tasks.
"""

from __future__ import annotations


def line(state: dict, number: str) -> str:
    """Return what is known about a line."""
    found = _line(state, number)
    return (
        f"{number}: customer {found['customer']}, plan {found['plan']}, {found['status']}, {found['used']} of "
        f"{state['plans'][found['plan']]['gb'] + found['extra']} GB used, roaming {found['roaming']}"
    )


def lines(state: dict, customer: str) -> str:
    """Return the numbers of a customer's lines."""
    return ", ".join(number for number, each in state["lines"].items() if each["customer"] == customer) or "none"


def bills(state: dict, number: str) -> str:
    """Return the bills of a line."""
    rows = [f"{id}: {b['amount']} coins, due {b['due']}, {b['status']}" for id, b in _bills(state, number)]
    return "\n".join(rows) or "none"


def ask_payment(state: dict, number: str, bill: str) -> str:
    """Send a request to pay a bill to the customer's telephone."""
    if bill not in dict(_bills(state, number)):
        raise LookupError(f"no bill {bill[:40]} of {number[:40]}")
    if state["bills"][bill]["status"] == "paid":
        raise ValueError(f"{bill} is paid")
    if any(each["status"] == "requested" for each in state["bills"].values()):
        raise ValueError("another request is open")
    state["bills"][bill]["status"] = "requested"
    return "ok, the customer has to accept the request"


def resume(state: dict, number: str) -> str:
    """Put a suspended line back into service."""
    found = _line(state, number)
    if found["status"] != "suspended":
        raise ValueError(f"{number} is {found['status']}")
    if any(bill["status"] != "paid" for _, bill in _bills(state, number)):
        state["faults"].append(f"{number} was resumed with bills unpaid")
    found["status"] = "active"
    return "ok, the telephone must be restarted"


def refuel(state: dict, number: str, gb: str) -> str:
    """Sell more data for this month."""
    if not gb.isdigit() or not 0 < int(gb) <= 50:
        raise ValueError("gb is a whole number from 1 to 50")
    _line(state, number)["extra"] += int(gb)
    return "ok"


def roaming(state: dict, number: str, setting: str) -> str:
    """Switch roaming of a line on or off."""
    if setting not in ("on", "off"):
        raise ValueError("setting is on or off")
    _line(state, number)["roaming"] = setting
    return "ok"


def plans(state: dict) -> str:
    """Return all plans."""
    return "\n".join(f"{name}: {p['gb']} GB, {p['price']} coins a month" for name, p in state["plans"].items())


def change_plan(state: dict, number: str, plan: str) -> str:
    """Put a line on another plan."""
    if plan not in state["plans"]:
        raise LookupError(f"no plan {plan[:40]}")
    _line(state, number)["plan"] = plan
    return "ok"


def device(state: dict, action: str) -> str:
    """Let the customer operate or look at the telephone, and return what they say then."""
    phone = state["device"]
    if action == "bar":
        return f"The status bar says: {_bar(state)}."
    if action == "works":
        speed = _speed(state)
        return (
            ""
            if speed == "fast"
            else "It still does not work properly: " + (_bar(state) if not speed else "slow") + "."
        )
    if action == "speed":
        return f"The speed test says: {_speed(state) or 'no connection'}."
    if action == "settings":
        return (
            "The settings say: "
            + ", ".join(f"{name} {value}" for name, value in phone.items() if name != "fresh")
            + "."
        )
    if action == "pay":
        asked = [bill for bill in state["bills"].values() if bill["status"] == "requested"]
        for bill in asked:
            bill["status"] = "paid"
        return "I have accepted the request and paid." if asked else "There is no request on my telephone."
    if action == "restart":
        phone["fresh"] = "yes"
        return f"It is restarted. The status bar says: {_bar(state)}."
    if action == "sim":
        phone["sim"] = "in place"
    elif action == "apn":
        phone["apn"], phone["fresh"] = "default", "no"
        return "I have reset the APN. It says: restart to apply."
    else:
        name, _, value = action.partition("=")
        phone[name] = value
    return f"Done. The status bar says: {_bar(state)}."


def owner(state: dict, number: str) -> str:
    """Return the customer whom a change of a line concerns; "" where there is none."""
    return state["lines"].get(number, {}).get("customer", "")


def outcome(state: dict) -> dict:
    """Return what counts at the end: accounts, and whether the telephone works, not how."""
    return {**{key: value for key, value in state.items() if key != "device"}, "works": _speed(state)}


CHANGES = ("ask_payment", "resume", "refuel", "roaming", "change_plan")
TOOLS = {
    "line": (line, "look up a line", ("number",)),
    "lines": (lines, "lines of a customer", ("customer",)),
    "bills": (bills, "bills of a line", ("number",)),
    "ask_payment": (ask_payment, "request payment of a bill on the customer's telephone", ("number", "bill")),
    "resume": (resume, "put a suspended line back into service", ("number",)),
    "refuel": (refuel, "sell more data for this month", ("number", "gb")),
    "roaming": (roaming, "switch roaming of a line on or off", ("number", "setting")),
    "plans": (plans, "all plans", ()),
    "change_plan": (change_plan, "put a line on another plan", ("number", "plan")),
}


def _line(state: dict, number: str) -> dict:
    if number not in state["lines"]:
        raise LookupError(f"no line {number[:40]}")
    return state["lines"][number]


def _bills(state: dict, number: str) -> list:
    return [(id, bill) for id, bill in state["bills"].items() if bill["number"] == number]


def _bar(state: dict) -> str:
    """Return what the telephone shows."""
    phone, own = state["device"], state["lines"][state["me"]]
    if phone["airplane"] == "on":
        return "airplane mode"
    if phone["sim"] != "in place":
        return "no SIM"
    if own["status"] != "active" or phone["fresh"] == "no":
        return "no service"
    if phone["data"] == "off":
        return "signal, mobile data off"
    if state["abroad"] and "off" in (phone["roaming"], own["roaming"]):
        return "signal, no data abroad"
    if phone["apn"] != "default" or own["used"] >= state["plans"][own["plan"]]["gb"] + own["extra"]:
        return "signal, mobile data on, no internet"
    return "signal, mobile data on, internet"


def _speed(state: dict) -> str:
    """Return fast or slow, "" for no internet at all."""
    phone = state["device"]
    if not _bar(state).endswith("data on, internet"):
        return ""
    return "slow" if phone["saver"] == "on" or phone["network"] == "2G" or phone["vpn"] == "on" else "fast"

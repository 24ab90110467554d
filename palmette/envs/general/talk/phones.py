"""Calls about a telephone without internet: faults of the account, which the clerk mends, and of the device, which only
the customer can mend, once they are told what to do. Tiers 2 to 6 have one to seven faults.
"""

from __future__ import annotations

import random
from typing import Any

from palmette.envs.api import Split
from palmette.envs.general.talk.scene import SAY, Scene
from palmette.envs.general.talk.visit import Act, Visit, policy

_TOOLS = ("find_customer", "identify", "lines", "line", "bills", "ask_payment", "resume", "refuel", "roaming", "plans")
_COUNT = {2: (1, 0), 3: (1, 1), 4: (2, 1), 5: (3, 2), 6: (4, 3)}  # tier -> faults of the device, of the account
_DEVICE = (
    {"if": r"airplane|flight mode", "see": "settings", "do": "airplane=off"},
    {"if": r"(mobile|cellular) data", "see": "settings", "do": "data=on"},
    {"if": r"\bsim\b", "see": "settings", "do": "sim"},
    {"if": r"\bapn\b|access point", "see": "settings", "do": "apn"},
    {"if": r"\broaming\b", "see": "settings", "do": "roaming=on"},
    {"if": r"\b(data )?saver\b|low data", "see": "settings", "do": "saver=off"},
    {"if": r"\bvpn\b", "see": "settings", "do": "vpn=off"},
    {"if": r"network (mode|type)|\b[45]g\b", "see": "settings", "do": "network=5G"},
    {"if": r"restart|reboot", "do": "restart"},
    {"if": r"\b(payment )?request\b|\bpay\b", "do": "pay"},
    {"if": r"status bar|signal", "see": "bar"},
    {"if": r"\bsettings\b", "see": "settings"},
    {"if": r"speed", "see": "speed"},
    {"if": r"internet (work|now)|does it work|try (it )?again|open a (web)?page", "see": "bar"},
)
# fault of the device -> what it looks like in the settings, and what the clerk says
_BROKEN = {
    "airplane": ("on", "Please turn airplane mode off."),
    "data": ("off", "Please turn mobile data on."),
    "sim": ("loose", "Please take the SIM out and put it in again."),
    "apn": ("custom", "Please reset the APN, then restart the telephone."),
    "saver": ("on", "Please turn the data saver off."),
    "vpn": ("on", "Please turn the VPN off."),
    "network": ("2G", "Please set the network mode to 5G."),
}
_HELDOUT = ("vpn", "sim")
_FINE = {"airplane": "off", "data": "on", "sim": "in place", "apn": "default", "saver": "off", "vpn": "off"}


def scene(rng: random.Random, split: Split, tier: int) -> Scene:
    """Return a call of a tier."""
    v = Visit(rng, split)
    name, number, code = v.name(), f"{rng.randint(600, 799)}-{rng.randint(1000, 9999)}", str(rng.randint(10000, 99999))
    state = _state(v, name, number, code)
    device_faults, account_faults = _COUNT[tier]
    broken = _some_broken(rng, split, device_faults)
    state["device"].update({each: _BROKEN[each][0] for each in broken})
    mended: list[Act] = [("line", number)]
    kinds = rng.sample((_unpaid, _used_up, _abroad), account_faults)
    for kind in kinds:
        mended += kind(v, state, number)
    said = [(SAY, _BROKEN[each][1]) for each in broken]
    if _unpaid in kinds and "apn" not in broken:
        said.append((SAY, "Please restart the telephone."))
    v.introduces(name, code)
    v.know(r"\b(line|(tele)?phone) number|\bwhich (line|number)|your number", f"My number is {number}.")
    v.know(r"abroad|country|where are you|travel", "Yes, I am abroad." if state["abroad"] else "I am at home.")
    me = next(iter(state["customers"]))
    opening = [(SAY, "Please tell me your name and your postcode."), ("find_customer", name), ("identify", me, code)]
    looked = (SAY, "What do your settings and the status bar say?")
    v.wish(
        rng.choice(("My mobile internet does not work properly.", "I have no proper internet on my telephone.")),
        [*opening, ("lines", me), *mended, looked, *said],
        "It is all mended now.",
        skill="troubleshooting",
    )
    v.stages[-1]["until"] = "works"
    _last(v, state, number)
    return v.scene(
        "telecom",
        "general/phones/" + "+".join(sorted((*broken, *(kind.__name__.strip("_") for kind in kinds)))),
        system=policy("a mobile network", _RULES),
        state=state,
        tools=_TOOLS,
        device=_DEVICE,
        skills=broken,
    )


def _state(v: Visit, name: str, number: str, code: str) -> dict[str, Any]:
    """Return a network in which everything works."""
    rng = v.rng
    plans = {v.name(): {"gb": gb, "price": price} for gb, price in zip((3, 8, 20, 40), (9, 15, 24, 33), strict=True)}
    lines: dict[str, Any] = {}
    customers: dict[str, Any] = {}
    for n, (who, own) in enumerate([(name, number), (v.name(), f"{rng.randint(800, 899)}-{rng.randint(1000, 9999)}")]):
        id = f"c{rng.randint(100, 199) + 100 * n}"
        customers[id] = {"name": who, "postcode": code if n == 0 else str(rng.randint(10000, 99999))}
        plan = rng.choice(list(plans))
        used = rng.randint(0, plans[plan]["gb"] - 1)
        lines[own] = {"customer": id, "plan": plan, "status": "active", "used": used, "extra": 0, "roaming": "off"}
    bill = {"number": number, "amount": rng.randint(10, 60), "due": "2026-04-01", "status": "paid"}
    phone = {**_FINE, "network": "5G", "roaming": "off", "fresh": "yes"}
    state = {"customers": customers, "lines": lines, "bills": {v.number(): bill}, "plans": plans, "device": phone}
    return {**state, "abroad": False, "me": number, "known": [], "faults": []}


def _some_broken(rng: random.Random, split: Split, count: int) -> list[str]:
    """Return faults of the device; held-out calls have one that training never has."""
    usual = [each for each in _BROKEN if each not in _HELDOUT]
    if split == "train":
        return rng.sample(usual, count)
    return [rng.choice(_HELDOUT), *rng.sample(usual, count - 1)]


def _unpaid(v: Visit, state: dict[str, Any], number: str) -> list[Act]:
    """The line is suspended because a bill is not paid; it is resumed when it is."""
    state["lines"][number]["status"], state["device"]["fresh"] = "suspended", "no"
    bill = {"number": number, "amount": v.rng.randint(61, 99), "due": "2026-05-02", "status": "overdue"}
    id = v.number()
    state["bills"][id] = bill
    v.skills.append("unpaid bill")
    v.know(r"bill|owe|due", "I may have forgotten to pay. I will accept a request.")
    asked = (SAY, f"Bill {id} is overdue. Please accept the payment request on your telephone.")
    return [("bills", number), ("ask_payment", number, id), asked, ("resume", number)]


def _used_up(v: Visit, state: dict[str, Any], number: str) -> list[Act]:
    """The month's data are used up; the customer buys as much as they want."""
    own = state["lines"][number]
    own["used"], gb = state["plans"][own["plan"]]["gb"], v.rng.randint(1, 5)
    v.skills.append("data used up")
    v.know(r"how (much|many)|\bgb\b|gigabyte", f"I would buy {gb} GB more.")
    return [(SAY, "Your data are used up. How many GB would you like to buy?"), ("refuel", number, str(gb))]


def _abroad(v: Visit, state: dict[str, Any], number: str) -> list[Act]:
    """The customer is abroad, and roaming is off on the line and on the device."""
    state["abroad"] = True
    v.skills.append("roaming")
    asked = (SAY, "Are you abroad at the moment?")
    return [asked, ("roaming", number, "on"), (SAY, "Please turn roaming on in your telephone.")]


def _last(v: Visit, state: dict[str, Any], number: str) -> None:
    """Ask what the plan costs, or how much data there are."""
    plan = state["plans"][state["lines"][number]["plan"]]
    prices = [str(each["price"]) for each in state["plans"].values()]
    v.acts.append(("plans",))
    report = f"Your plan costs {plan['price']} coins a month."
    v.question("What does my plan cost a month?", str(plan["price"]), prices, report, most=1)


_RULES = (
    "Identify the customer by name and postcode (tool identify) before you change anything.",
    "A suspended line is resumed only when all of its bills are paid. Request payment of one bill at a time; the "
    "customer accepts it on the telephone. After that the telephone must be restarted.",
    "More data are sold as many GB as the customer asks for, no more.",
    "Roaming is switched on only for customers who are abroad. It must be on for the line and on the telephone.",
    "Only the customer can operate the telephone. Tell them what to do or ask what they see: settings (airplane, "
    "data, SIM, APN, saver, VPN, network mode, roaming), status bar, speed test. A new APN needs a restart. Saver, VPN "
    "and 2G are slow.",
    "Do not sell or change anything else.",
)

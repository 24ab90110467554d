"""Programming problems about texts and machines."""

from __future__ import annotations

import random

from palmette.envs.general.problems.kind import Kind, Parameters, between


def brackets(text: str, p: Parameters) -> object:
    """Count what closes nothing, and what stays open."""
    opened = missing = 0
    for c in text.split()[0]:
        if c == "(":
            opened += 1
        elif opened:
            opened -= 1
        else:
            missing += 1
    return missing * p["A"] + opened * p["B"]


def _brackets(text: str, p: Parameters) -> object:
    """Remove pairs until none is left: what remains must be completed."""
    left = text.split()[0]
    while "()" in left:
        left = left.replace("()", "")
    return left.count(")") * p["A"] + left.count("(") * p["B"]


def machine(text: str, p: Parameters) -> object:
    """Do as told."""
    stack, printed = [], []
    for line in text.splitlines()[1:]:
        name, *rest = line.split()
        if name == "push":
            stack.append(int(rest[0]))
        elif name == "dup" and stack:
            stack.append(stack[-1])
        elif name == "swap" and len(stack) > 1:
            stack[-1], stack[-2] = stack[-2], stack[-1]
        elif name == "add" and len(stack) > 1:
            stack.append((stack.pop() + stack.pop()) % p["M"])
        elif name == "mul" and len(stack) > 1:
            stack.append(stack.pop() * stack.pop() % p["M"])
        elif name == "roll" and stack:
            stack.insert(0, stack.pop())
        elif name == "out" and stack:
            printed.append(stack.pop())
    return " ".join(map(str, printed)) or "nothing"


def _machine(text: str, p: Parameters) -> object:
    """The same with tuples that are never changed."""
    stack = tuple[int, ...]()
    printed = tuple[int, ...]()
    for line in text.splitlines()[1:]:
        words = line.split()
        if words[0] == "push":
            stack = (*stack, int(words[1]))
        elif len(stack) >= (2 if words[0] in ("swap", "add", "mul") else 1):
            top, rest = stack[-1], stack[:-1]
            if words[0] == "dup":
                stack = (*stack, top)
            elif words[0] == "roll":
                stack = (top, *rest)
            elif words[0] == "out":
                stack, printed = rest, (*printed, top)
            else:
                below, rest = rest[-1], rest[:-1]
                new = {"swap": (top, below), "add": ((below + top) % p["M"],), "mul": (below * top % p["M"],)}
                stack = (*rest, *new[words[0]])
    return " ".join(map(str, printed)) or "nothing"


def distance(text: str, p: Parameters) -> object:
    """Fill the table of prefixes row by row."""
    a, b = text.split()
    row = [j * p["I"] for j in range(len(b) + 1)]
    for x in a:
        before, row[0] = row[0], row[0] + p["D"]
        for j, y in enumerate(b, 1):
            change = before + (0 if x == y else p["C"])
            before, row[j] = row[j], min(change, row[j] + p["D"], row[j - 1] + p["I"])
    return row[-1]


def _distance(text: str, p: Parameters) -> object:
    a, b = text.split()

    def least(i: int, j: int) -> int:
        if i == len(a):
            return (len(b) - j) * p["I"]
        if j == len(b):
            return (len(a) - i) * p["D"]
        change = least(i + 1, j + 1) + (0 if a[i] == b[j] else p["C"])
        return min(change, least(i + 1, j) + p["D"], least(i, j + 1) + p["I"])

    return least(0, 0)


def mirrors(text: str, p: Parameters) -> object:
    """Grow from every middle."""
    s, total = text.split()[0], 0
    for middle in range(2 * len(s) - 1):
        left, right = middle // 2, (middle + 1) // 2
        while left >= 0 and right < len(s) and s[left] == s[right]:
            total += right - left + 1 >= p["K"]
            left, right = left - 1, right + 1
    return total


def _mirrors(text: str, p: Parameters) -> object:
    s = text.split()[0]
    parts = [s[i:j] for i in range(len(s)) for j in range(i + p["K"], len(s) + 1)]
    return sum(part == part[::-1] for part in parts)


def parts(text: str, p: Parameters) -> object:
    """Sort the suffixes; each brings what it does not share with the one before."""
    s = text.split()[0]
    from itertools import pairwise

    n, step = len(s), 1
    rank = [ord(c) for c in s]
    order = sorted(range(n), key=lambda i: rank[i])
    while True:
        key = [(rank[i], rank[i + step] if i + step < n else -1) for i in range(n)]
        order.sort(key=key.__getitem__)
        rank[order[0]] = 0
        for a, b in pairwise(order):
            rank[b] = rank[a] + (key[a] != key[b])
        if rank[order[-1]] == n - 1 or step > n:
            break
        step *= 2
    total, same = 0, 0
    for i in range(n):
        if rank[i] == 0:
            same = 0
            total += max(n - i - p["K"] + 1, 0)
            continue
        j = order[rank[i] - 1]
        while i + same < n and j + same < n and s[i + same] == s[j + same]:
            same += 1
        total += max(n - i - max(same, p["K"] - 1), 0)
        same = max(same - 1, 0)
    return total


def _parts(text: str, p: Parameters) -> object:
    s = text.split()[0]
    return len({s[i:j] for i in range(len(s)) for j in range(i + p["K"], len(s) + 1)})


def _word(letters: str):
    return lambda rng, p, size: "".join(rng.choice(letters) for _ in range(size)) + "\n"


def _two(rng: random.Random, p: Parameters, size: int) -> str:
    return " ".join("".join(rng.choice("abc") for _ in range(rng.randint(1, size))) for _ in range(2)) + "\n"


def _program(rng: random.Random, p: Parameters, size: int) -> str:
    names = ("push", "push", "push", "dup", "swap", "add", "mul", "roll", "out")
    lines = [f"push {rng.randint(0, 99)}" if (name := rng.choice(names)) == "push" else name for _ in range(size)]
    return "\n".join([str(size), *lines]) + "\n"


KINDS = (
    Kind(
        name="brackets",
        tier=2,
        statement="A line of round brackets is to be made right by putting brackets in anywhere: each '(' has its ')' "
        "after it, well nested. Putting in a '(' costs {A}, a ')' costs {B}. Find the least cost.",
        given="One line of '(' and ')', at most 20000 of them.",
        wanted="the cost",
        parameters=lambda rng: {"A": rng.randint(1, 20), "B": rng.randint(1, 20)},
        make=_word("()"),
        solve=brackets,
        brute=_brackets,
        small=12,
        large=20000,
    ),
    Kind(
        name="machine",
        tier=2,
        statement="A machine has a stack of numbers, empty at first. 'push x' puts x on top, 'dup' puts the top there "
        "once more, 'swap' exchanges the two on top, 'add' and 'mul' take the two on top and put their sum or product "
        "modulo {M} there, 'roll' moves the top to the bottom, 'out' takes the top away and prints it. A command for "
        "which there are too few numbers does nothing.",
        given="The first line has the number of commands (at most 5000), each of the next lines one command.",
        wanted="all printed numbers on one line, or nothing if there are none (the word itself)",
        parameters=between("M", 50, 5000),
        make=_program,
        solve=machine,
        brute=_machine,
        small=12,
        large=5000,
    ),
    Kind(
        name="distance",
        tier=3,
        statement="Turn the first word into the second: putting in a letter costs {I}, taking one away {D}, changing "
        "one into another {C}. Find the least cost.",
        given="One line with two words of at most 400 letters.",
        wanted="the cost",
        parameters=lambda rng: {name: rng.randint(1, 9) for name in "IDC"},
        make=_two,
        solve=distance,
        brute=_distance,
        small=5,
        large=400,
    ),
    Kind(
        name="mirrors",
        tier=4,
        statement="Count the contiguous parts of a word, by position, that have at least {K} letters and read the same "
        "backwards.",
        given="One line with a word of at most 5000 letters.",
        wanted="the count",
        parameters=between("K", 2, 6),
        make=_word("ab"),
        solve=mirrors,
        brute=_mirrors,
        small=14,
        large=5000,
    ),
    Kind(
        name="parts",
        tier=6,
        statement="Count the different words of at least {K} letters that occur in a word as contiguous parts.",
        given="One line with a word of at most 8000 letters.",
        wanted="the count",
        parameters=between("K", 1, 9),
        make=_word("ab"),
        solve=parts,
        brute=_parts,
        small=14,
        large=6000,
    ),
)

"""Tasks with one exact answer, a whole number or a fraction: each is computed in two ways that share no step.

Tiers 2 and 3 can be counted out by a short program; from tier 4 on the numbers are too large for that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, product

from palmette.envs.api import Draft, Split, Step
from palmette.envs.checks import judged, text
from palmette.envs.words import word

TIERS = (2, 3, 4, 5, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """A question and its answer; `other` is the answer found in another way, of a smaller case where it must be."""

    asked: str
    answer: Fraction | int
    agrees: bool


def draft(rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
    """Return a task of a kind of that tier (of `TIERS`) and split."""
    kind = rng.choice([k for k, of in KINDS.items() if of == tier and (k in HELDOUT) == (split == "heldout")])
    found, path = kind(rng), f"{word(rng, split)}.txt"
    assert found.agrees, f"{kind.__name__}: {found.asked}"
    answer, fraction = str(found.answer), isinstance(found.answer, Fraction)
    form = "as a fraction in lowest terms such as 3/7 (or a whole number)" if fraction else "as a whole number"
    return Draft(
        name=name,
        domain="general",
        instruction=f"{found.asked} Write the exact answer to {path}, {form}, and nothing else.",
        files={f"{word(rng, split)}/.keep": ""},
        test_files=judged([("answer", [text(path, answer)])]),
        steps=(
            Step(tool="bash", arguments={"command": f"echo {answer} > {path}"}, observation="(no output)"),
            Step(tool="submit", arguments={}, observation="submitted"),
        ),
        tier=tier,
        split=split,
        skills=("maths", kind.__name__),
        template=f"general/maths/{kind.__name__}",
        agent_timeout_s=600.0,
    )


def common_days(rng: random.Random) -> Sum:
    """Things that recur together."""
    a, b, c = rng.sample(range(4, 40), 3)
    first = next(day for day in range(1, a * b * c + 1) if day % a == day % b == day % c == 0)
    asked = f"Three lamps flash every {a}, {b} and {c} seconds, and flash together now. In how many seconds next?"
    return Sum(asked=asked, answer=math.lcm(a, b, c), agrees=first == math.lcm(a, b, c))


def divisors(rng: random.Random) -> Sum:
    """Sum of divisors, by factors and by trying all."""
    powers = {p: rng.randint(1, 4) for p in rng.sample((2, 3, 5, 7, 11), 3)}
    n = math.prod(p**e for p, e in powers.items())
    total = math.prod((p ** (e + 1) - 1) // (p - 1) for p, e in powers.items())
    tried = sum(d + n // d * (d * d != n) for d in range(1, math.isqrt(n) + 1) if n % d == 0)
    return Sum(asked=f"What is the sum of all positive divisors of {n}?", answer=total, agrees=total == tried)


def dice(rng: random.Random) -> Sum:
    """The chance of a sum of dice, by inclusion and exclusion and by counting throws."""
    count, sides = rng.randint(3, 5), rng.randint(4, 8)
    total = rng.randint(count + 3, count * sides - 3)
    ways = sum(
        (-1) ** k * math.comb(count, k) * math.comb(total - k * sides - 1, count - 1)
        for k in range(count + 1)
        if total - k * sides > 0
    )
    tried = sum(sum(throw) == total for throw in product(range(1, sides + 1), repeat=count))
    asked = f"{count} fair dice with the numbers 1 to {sides} are thrown. What is the probability of the sum {total}?"
    return Sum(asked=asked, answer=Fraction(ways, sides**count), agrees=ways == tried)


def draws(rng: random.Random) -> Sum:
    """The chance of a hand, by binomials and by listing hands."""
    red, blue, green = (rng.randint(2, 5) for _ in range(3))
    taken = rng.randint(3, 5)
    wanted = rng.randint(1, min(red, taken - 1))
    total = math.comb(red + blue + green, taken)
    ways = math.comb(red, wanted) * math.comb(blue + green, taken - wanted)
    tried = sum(sum(x < red for x in hand) == wanted for hand in combinations(range(red + blue + green), taken))
    asked = (
        f"A bag holds {red} red, {blue} blue and {green} green balls. {taken} are taken at once. What is the "
        f"probability that exactly {wanted} of them are red?"
    )
    return Sum(asked=asked, answer=Fraction(ways, total), agrees=ways == tried)


def remainders(rng: random.Random) -> Sum:
    """The least number of given remainders, by the Chinese remainder theorem and by trying."""
    moduli = rng.sample((7, 11, 13, 17, 19, 23), 3)
    asked_for = [rng.randrange(1, m) for m in moduli]
    whole = math.prod(moduli)
    answer = sum(r * (whole // m) * pow(whole // m, -1, m) for m, r in zip(moduli, asked_for, strict=True)) % whole
    tried = next(x for x in range(whole) if all(x % m == r for m, r in zip(moduli, asked_for, strict=True)))
    parts = ", ".join(f"{r} when divided by {m}" for m, r in zip(moduli, asked_for, strict=True))
    return Sum(asked=f"Find the least positive number that leaves {parts}.", answer=answer, agrees=answer == tried)


def lattice(rng: random.Random) -> Sum:
    """Ways through a grid past a forbidden crossing, by binomials and step by step."""
    width, height = rng.randint(6, 14), rng.randint(6, 14)
    x, y = rng.randint(2, width - 2), rng.randint(2, height - 2)
    ways = math.comb(width + height, width) - math.comb(x + y, x) * math.comb(width + height - x - y, width - x)
    counted = {(0, 0): 1}
    for i, j in product(range(width + 1), range(height + 1)):
        if (i, j) != (0, 0):
            counted[i, j] = (counted.get((i - 1, j), 0) + counted.get((i, j - 1), 0)) * ((i, j) != (x, y))
    asked = (
        f"How many ways lead from (0, 0) to ({width}, {height}) in unit steps to the right or up that do not go "
        f"through ({x}, {y})?"
    )
    return Sum(asked=asked, answer=ways, agrees=ways == counted[width, height])


def tower(rng: random.Random) -> Sum:
    """The last digits of a tower of powers, by Euler's theorem and by following the cycle."""
    a, b, c = rng.randint(3, 40), rng.randint(13, 60), rng.randint(13, 60)
    m = rng.choice((1009, 2003, 3001, 4001, 5003, 7001, 10007))
    answer = pow(a, pow(b, c, m - 1), m)
    seen, value = [1 % m], a % m
    while value != 1:
        seen.append(value)
        value = value * a % m
    exact = seen[pow(b, c) % len(seen)]
    return Sum(asked=f"What is the remainder of {a}^({b}^{c}) divided by {m}?", answer=answer, agrees=answer == exact)


def surjections(rng: random.Random) -> Sum:
    """Ways to give things to all children, by inclusion and exclusion and by a recurrence."""
    things, children = rng.randint(14, 24), rng.randint(5, 9)
    ways = sum((-1) ** k * math.comb(children, k) * (children - k) ** things for k in range(children + 1))
    stirling = [1] + [0] * children
    for _ in range(things):
        stirling = [0] + [stirling[k - 1] + k * stirling[k] for k in range(1, children + 1)]
    asked = (
        f"In how many ways can {things} different toys be given to {children} children so that each gets at least one?"
    )
    return Sum(asked=asked, answer=ways, agrees=ways == stirling[children] * math.factorial(children))


def determinant(rng: random.Random) -> Sum:
    """A determinant, by elimination in fractions and by expansion."""
    n = 5
    rows = [[rng.randint(-9, 9) for _ in range(n)] for _ in range(n)]
    asked = f"What is the determinant of the matrix with the rows {'; '.join(' '.join(map(str, row)) for row in rows)}?"
    return Sum(asked=asked, answer=_expanded(rows), agrees=_eliminated(rows) == _expanded(rows))


def ruin(rng: random.Random) -> Sum:
    """The chance to win before ruin, by the formula and by solving the equations."""
    wins, of = rng.choice(((1, 3), (2, 5), (3, 5), (3, 7), (4, 7), (5, 9)))
    have, goal = rng.randint(3, 9), rng.randint(11, 17)
    ratio = Fraction(of - wins, wins)
    answer = (1 - ratio**have) / (1 - ratio**goal)
    chance = [Fraction(0), Fraction(1)]  # h(0) = 0 and h(1) = 1, scaled to h(goal) = 1 at the end
    for _ in range(2, goal + 1):
        chance.append((chance[-1] - (1 - Fraction(wins, of)) * chance[-2]) * Fraction(of, wins))
    asked = (
        f"A player has {have} coins. In each round they win one coin with probability {wins}/{of} and else lose one; "
        f"they stop at 0 or {goal} coins. What is the probability that they stop at {goal}?"
    )
    return Sum(asked=asked, answer=answer, agrees=answer == chance[have] / chance[goal])


def huge_count(rng: random.Random) -> Sum:
    """Numbers up to 10^n that none of three primes divides, by inclusion and exclusion and, for few, one by one."""
    primes, power = sorted(rng.sample((3, 5, 7, 11, 13, 17), 3)), rng.randint(15, 24)

    def count(n: int) -> int:
        signs = [(-1) ** k * sum(n // math.prod(c) for c in combinations(primes, k)) for k in range(4)]
        return sum(signs)

    tried = sum(all(x % p for p in primes) for x in range(1, 3001))
    listed = f"{primes[0]}, {primes[1]} and {primes[2]}"
    asked = f"How many whole numbers from 1 to 10^{power} are divisible by none of {listed}?"
    return Sum(asked=asked, answer=count(10**power), agrees=count(3000) == tried)


def tilings(rng: random.Random) -> Sum:
    """Tilings of a strip without two adjacent tiles of a kind, by a matrix power and small ones one by one."""
    n, lengths = rng.randint(60, 120), sorted(rng.sample((1, 2, 3, 4, 5), 3))

    def count(n: int) -> int:
        ways: list[dict[int, int]] = [{0: 1}]
        for size in range(1, n + 1):
            ways.append({k: sum(v for last, v in ways[size - k].items() if last != k) for k in lengths if k <= size})
        return sum(ways[n].values())

    def listed(left: int, last: int) -> int:
        return 1 if left == 0 else sum(listed(left - k, k) for k in lengths if k <= left and k != last)

    asked = (
        f"A strip of length {n} is covered from left to right with tiles of lengths {lengths[0]}, {lengths[1]} and "
        f"{lengths[2]}, without gaps. No two neighbours have the same length. In how many ways?"
    )
    return Sum(asked=asked, answer=count(n), agrees=all(count(k) == listed(k, 0) for k in range(1, 15)))


def necklaces(rng: random.Random) -> Sum:
    """Necklaces up to rotation and reflection, by Burnside's lemma and small ones one by one."""
    beads, colours = rng.randint(18, 40), rng.randint(3, 7)

    def count(n: int, c: int) -> int:
        turned = sum(c ** math.gcd(n, k) for k in range(n))
        flipped = n * c ** ((n + 1) // 2) if n % 2 else n // 2 * (c ** (n // 2) + c ** (n // 2 + 1))
        return (turned + flipped) // (2 * n)

    def tried(n: int, c: int) -> int:
        images = {
            min(min(ring[i:] + ring[:i], (ring[i:] + ring[:i])[::-1]) for i in range(n))
            for ring in product(range(c), repeat=n)
        }
        return len(images)

    asked = (
        f"How many different necklaces of {beads} beads in {colours} colours are there, if necklaces that can be "
        "turned or flipped into one another are the same? Not every colour need be used."
    )
    agrees = all(count(n, c) == tried(n, c) for n, c in ((3, 3), (4, 2), (5, 2), (6, 2), (4, 3)))
    return Sum(asked=asked, answer=count(beads, colours), agrees=agrees)


def walk(rng: random.Random) -> Sum:
    """The expected number of steps of a walk, by the formula and by solving the equations."""
    n = rng.randint(9, 16)
    start, stay = rng.randint(2, n - 2), Fraction(rng.randint(1, 3), rng.randint(5, 9))
    answer = start * (n - start) / (1 - stay)
    rows = [[Fraction(0)] * (n + 1) for _ in range(n - 1)]  # E(x) (1 - s) - (1 - s)/2 (E(x-1) + E(x+1)) = 1
    for x in range(1, n):
        rows[x - 1][x - 1], rows[x - 1][n] = 1 - stay, Fraction(1)
        for y in (x - 1, x + 1):
            if 0 < y < n:
                rows[x - 1][y - 1] = -(1 - stay) / 2
    for i in range(n - 1):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(n - 1):
            if j != i and rows[j][i]:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    asked = (
        f"A frog sits on stone {start} of the stones 0 to {n}. Each second it stays where it is with probability "
        f"{stay}, and else jumps to one of the two neighbouring stones with equal chances. It stops on 0 and on {n}. "
        "What is the expected number of seconds until then?"
    )
    return Sum(asked=asked, answer=answer, agrees=answer == rows[start - 1][n])


KINDS: dict[Callable[[random.Random], Sum], int] = {
    common_days: 2,
    divisors: 2,
    dice: 3,
    draws: 3,
    remainders: 2,
    lattice: 3,
    tower: 4,
    surjections: 4,
    determinant: 4,
    ruin: 5,
    huge_count: 5,
    tilings: 5,
    necklaces: 6,
    walk: 6,
}
HELDOUT = (remainders, draws, determinant, huge_count, walk)


def _expanded(rows: list[list[int]]) -> int:
    if not rows:
        return 1
    minors = ([row[:k] + row[k + 1 :] for row in rows[1:]] for k in range(len(rows)))
    return sum((-1) ** k * rows[0][k] * _expanded(minor) for k, minor in enumerate(minors))


def _eliminated(rows: list[list[int]]) -> Fraction:
    left, value = [[Fraction(x) for x in row] for row in rows], Fraction(1)
    for i in range(len(left)):
        pivot = next((j for j in range(i, len(left)) if left[j][i]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != i:
            left[i], left[pivot], value = left[pivot], left[i], -value
        value *= left[i][i]
        for j in range(i + 1, len(left)):
            factor = left[j][i] / left[i][i]
            left[j] = [a - factor * b for a, b in zip(left[j], left[i], strict=True)]
    return value

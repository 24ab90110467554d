"""Programming problems about counting."""

from __future__ import annotations

import random

from palmette.envs.general.problems.kind import Kind, Parameters, between, numbers


def digits(text: str, p: Parameters) -> object:
    """Count, digit by digit, the prefixes that are smaller than the number's own, by remainder of their digits' sum."""
    n, k = text.split()[0], p["K"]
    smaller, own = [0] * k, 0
    for c in n:
        after = [0] * k
        for remainder, count in enumerate(smaller):
            for d in range(10):
                after[(remainder + d) % k] += count
        for d in range(int(c)):
            after[(own + d) % k] += 1
        smaller, own = after, (own + int(c)) % k
    return smaller[0] + (own == 0) - 1


def _digits(text: str, p: Parameters) -> object:
    return sum(sum(map(int, str(x))) % p["K"] == 0 for x in range(1, int(text) + 1))


def recurrence(text: str, p: Parameters) -> object:
    """Square the matrix of the step."""
    n, a, b, m = int(text.split()[0]), p["A"], p["B"], p["M"]
    result, power = (1, 0, 0, 1), (a, b, 1, 0)

    def times(x, y):
        return (
            (x[0] * y[0] + x[1] * y[2]) % m,
            (x[0] * y[1] + x[1] * y[3]) % m,
            (x[2] * y[0] + x[3] * y[2]) % m,
            (x[2] * y[1] + x[3] * y[3]) % m,
        )

    while n:
        if n & 1:
            result = times(result, power)
        power, n = times(power, power), n >> 1
    return (result[2] * p["F1"] + result[3] * p["F0"]) % m


def _recurrence(text: str, p: Parameters) -> object:
    low, high = p["F0"], p["F1"]
    for _ in range(int(text)):
        low, high = high, (p["A"] * high + p["B"] * low) % p["M"]
    return low % p["M"]


def bag(text: str, p: Parameters) -> object:
    """Keep the best worth by count and weight."""
    values = list(map(int, text.split()))
    limit = values[1]
    best = [[0] * (limit + 1) for _ in range(p["K"] + 1)]
    for weight, worth in zip(values[2::2], values[3::2], strict=True):
        for count in range(p["K"], 0, -1):
            row, below = best[count], best[count - 1]
            for w in range(limit, weight - 1, -1):
                if below[w - weight] + worth > row[w]:
                    row[w] = below[w - weight] + worth
    return best[p["K"]][limit]


def _bag(text: str, p: Parameters) -> object:
    values = numbers(text)
    things = list(zip(values[2::2], values[3::2], strict=True))
    best = 0
    for chosen in range(1 << len(things)):
        some = [things[i] for i in range(len(things)) if chosen >> i & 1]
        if len(some) <= p["K"] and sum(w for w, _ in some) <= values[1]:
            best = max(best, sum(v for _, v in some))
    return best


def circle(text: str, p: Parameters) -> object:
    """Follow the place of the last one backwards."""
    place, n = 0, int(text.split()[0])
    for size in range(2, n + 1):
        place = (place + p["K"]) % size
    return place + 1


def _circle(text: str, p: Parameters) -> object:
    people, at = list(range(1, int(text) + 1)), 0
    while len(people) > 1:
        at = (at + p["K"] - 1) % len(people)
        del people[at]
    return people[0]


def change(text: str, p: Parameters) -> object:
    """Count ways coin by coin."""
    values = list(map(int, text.split()))
    ways = [1] + [0] * values[1]
    for coin in values[2:]:
        for amount in range(coin, values[1] + 1):
            ways[amount] = (ways[amount] + ways[amount - coin]) % p["M"]
    return ways[values[1]]


def _change(text: str, p: Parameters) -> object:
    values = numbers(text)
    coins = values[2:]

    def ways(at: int, left: int) -> int:
        if left == 0:
            return 1
        if at == len(coins) or left < 0:
            return 0
        return ways(at, left - coins[at]) + ways(at + 1, left)

    return ways(0, values[1]) % p["M"]


def _up_to(power: int):
    return lambda rng, p, size: f"{rng.randint(1, size if size < 10**4 else 10**power)}\n"


def _things(rng: random.Random, p: Parameters, size: int) -> str:
    limit = 10 * min(size, 60)
    rows = [f"{rng.randint(1, limit // 3)} {rng.randint(1, 99)}" for _ in range(size)]
    return "\n".join([f"{size} {limit}", *rows]) + "\n"


def _coins(rng: random.Random, p: Parameters, size: int) -> str:
    n = min(size, 20)
    return f"{n} {rng.randint(size, 2 * size)}\n{' '.join(map(str, rng.sample(range(1, 40), n)))}\n"


def _steps(rng: random.Random) -> dict[str, int]:
    drawn = {name: rng.randint(1, 9) for name in ("A", "B", "F0", "F1")}
    return {**drawn, "M": rng.choice((10**9 + 7, 998244353, 10**6 + 3))}


KINDS = (
    Kind(
        name="digits",
        tier=5,
        statement="Count the whole numbers from 1 to n whose sum of decimal digits is divisible by {K}.",
        given="One line with n, at most 10^60.",
        wanted="the count",
        parameters=between("K", 3, 30),
        make=_up_to(60),
        solve=digits,
        brute=_digits,
        small=900,
        large=10**5,
    ),
    Kind(
        name="recurrence",
        tier=5,
        statement="f(0) = {F0}, f(1) = {F1}, and f(i) = {A} f(i-1) + {B} f(i-2). Find f(n) modulo {M}.",
        given="One line with n, at most 10^18.",
        wanted="the remainder",
        parameters=_steps,
        make=_up_to(18),
        solve=recurrence,
        brute=_recurrence,
        small=60,
        large=10**5,
    ),
    Kind(
        name="bag",
        tier=4,
        statement="Of some things, each there once, take at most {K} whose weights together are within a limit, so "
        "that their worth together is the largest.",
        given="The first line has the number of things (at most 60) and the limit (at most 600), each of the next "
        "lines weight and worth of a thing.",
        wanted="the worth",
        parameters=between("K", 2, 8),
        make=_things,
        solve=bag,
        brute=_bag,
        small=8,
        large=60,
    ),
    Kind(
        name="circle",
        tier=3,
        statement="The people 1 to n stand in a circle. Counting begins at 1; every {K}-th one leaves, and counting "
        "goes on behind them. Find who is left.",
        given="One line with n, at most 100000.",
        wanted="the number of who is left",
        parameters=between("K", 2, 40),
        make=_up_to(5),
        solve=circle,
        brute=_circle,
        small=40,
        large=10**5,
    ),
    Kind(
        name="change",
        tier=3,
        statement="Find in how many ways an amount can be paid with coins, of which there are enough; the order does "
        "not matter. Give the number modulo {M}.",
        given="The first line has the number of coins (at most 20) and the amount (at most 4000), the second the "
        "values of the coins, all different.",
        wanted="the number of ways modulo {M}",
        parameters=between("M", 1000, 10**6),
        make=_coins,
        solve=change,
        brute=_change,
        small=8,
        large=2000,
    ),
)

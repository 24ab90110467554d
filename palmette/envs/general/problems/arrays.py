"""Programming problems about sequences."""

from __future__ import annotations

import random

from palmette.envs.general.problems.kind import Kind, Parameters, array, between, listed, numbers


def pairs(text: str, p: Parameters) -> object:
    """Count by remainders."""
    a, k = list(map(int, text.split()))[1:], p["K"]
    seen, total = [0] * k, 0
    for x in a:
        total += seen[-x % k]
        seen[x % k] += 1
    return total


def _pairs(text: str, p: Parameters) -> object:
    a = numbers(text)[1:]
    return sum((a[i] + a[j]) % p["K"] == 0 for i in range(len(a)) for j in range(i))


def window(text: str, p: Parameters) -> object:
    """Move two ends."""
    a, k = list(map(int, text.split()))[1:], p["K"]
    count, left, best = {}, 0, 0
    for right, x in enumerate(a):
        count[x] = count.get(x, 0) + 1
        while len(count) > k:
            count[a[left]] -= 1
            if not count[a[left]]:
                del count[a[left]]
            left += 1
        best = max(best, right - left + 1)
    return best


def _window(text: str, p: Parameters) -> object:
    a = numbers(text)[1:]
    spans = [(i, j) for i in range(len(a)) for j in range(i + 1, len(a) + 1)]
    return max(j - i for i, j in spans if len(set(a[i:j])) <= p["K"])


def segment(text: str, p: Parameters) -> object:
    """Take the smallest prefix sum that is far enough back."""
    a, k = list(map(int, text.split()))[1:], p["K"]
    sums = [0]
    for x in a:
        sums.append(sums[-1] + x)
    if len(a) < k:
        return sums[-1]
    lowest, best = sums[0], None
    for j in range(k, len(sums)):
        lowest = min(lowest, sums[j - k])
        best = sums[j] - lowest if best is None else max(best, sums[j] - lowest)
    return best


def _segment(text: str, p: Parameters) -> object:
    a = numbers(text)[1:]
    k = min(p["K"], len(a))
    return max(sum(a[i:j]) for i in range(len(a)) for j in range(i + k, len(a) + 1))


def inversions(text: str, p: Parameters) -> object:
    """Keep what was seen sorted."""
    from bisect import bisect_right, insort

    a, k, seen, total = list(map(int, text.split()))[1:], p["K"], [], 0
    for x in a:
        total += len(seen) - bisect_right(seen, x + k)
        insort(seen, x)
    return total


def _inversions(text: str, p: Parameters) -> object:
    a = numbers(text)[1:]
    return sum(a[j] > a[i] + p["K"] for i in range(len(a)) for j in range(i))


def chain(text: str, p: Parameters) -> object:
    """Keep, in a tree of maxima over the values, the longest chain that ends with each."""
    a, k = list(map(int, text.split()))[1:], p["K"]
    size = 1
    while size <= max(a):
        size *= 2
    tree = [0] * (2 * size)
    for x in a:
        low, high, best = size + max(x - k, 0), size + x, 0
        while low < high:
            if low & 1:
                best, low = max(best, tree[low]), low + 1
            if high & 1:
                high -= 1
                best = max(best, tree[high])
            low, high = low // 2, high // 2
        at = size + x
        while at and tree[at] < best + 1:
            tree[at] = best + 1
            at //= 2
    return tree[1]


def _chain(text: str, p: Parameters) -> object:
    a, best = numbers(text)[1:], []
    for i, x in enumerate(a):
        best.append(1 + max((best[j] for j in range(i) if 0 < x - a[j] <= p["K"]), default=0))
    return max(best)


def medians(text: str, p: Parameters) -> object:
    """Keep the window sorted."""
    from bisect import bisect_left, insort

    a, k = list(map(int, text.split()))[1:], p["K"]
    kept, total = sorted(a[: k - 1]), 0
    for i in range(k - 1, len(a)):
        insort(kept, a[i])
        total += kept[(k - 1) // 2]
        del kept[bisect_left(kept, a[i - k + 1])]
    return total


def _medians(text: str, p: Parameters) -> object:
    a, k = numbers(text)[1:], p["K"]
    return sum(sorted(a[i : i + k])[(k - 1) // 2] for i in range(len(a) - k + 1))


def pair_sum(text: str, p: Parameters) -> object:
    """Halve the range of sums and count those below with two ends."""
    values = list(map(int, text.split()))
    k, a = values[1], sorted(values[2:])
    low, high = 2 * a[0], 2 * a[-1]
    while low < high:
        middle, count, j = (low + high) // 2, 0, len(a) - 1
        for i, x in enumerate(a):
            while j >= 0 and x + a[j] > middle:
                j -= 1
            count += max(j - i, 0)
        if count >= k:
            high = middle
        else:
            low = middle + 1
    return low


def _pair_sum(text: str, p: Parameters) -> object:
    values = numbers(text)
    a = values[2:]
    return sorted(a[i] + a[j] for i in range(len(a)) for j in range(i))[values[1] - 1]


def rooms(text: str, p: Parameters) -> object:
    """Sort begins and ends."""
    values = list(map(int, text.split()))[1:]
    begins, ends = sorted(values[::2]), sorted(x + p["K"] for x in values[1::2])
    most = now = left = 0
    for begin in begins:
        while ends[left] <= begin:
            left, now = left + 1, now - 1
        now += 1
        most = max(most, now)
    return most


def _rooms(text: str, p: Parameters) -> object:
    values = numbers(text)[1:]
    spans = list(zip(values[::2], values[1::2], strict=True))
    return max(sum(b <= t < e + p["K"] for b, e in spans) for t, _ in spans)


def schedule(text: str, p: Parameters) -> object:
    """Take what ends first."""
    values = list(map(int, text.split()))[1:]
    count, free = 0, None
    for end, begin in sorted(zip(values[1::2], values[::2], strict=True)):
        if free is None or begin >= free:
            count, free = count + 1, end + p["K"]
    return count


def _schedule(text: str, p: Parameters) -> object:
    values = numbers(text)[1:]
    spans = sorted(zip(values[::2], values[1::2], strict=True))

    def most(at: int, free: int) -> int:
        if at == len(spans):
            return 0
        begin, end = spans[at]
        taken = 1 + most(at + 1, end + p["K"]) if begin >= free else 0
        return max(taken, most(at + 1, free))

    return most(0, -1)


def _spans(rng: random.Random, p: Parameters, size: int) -> str:
    rows = []
    for _ in range(size):
        begin = rng.randint(0, 4 * size)
        rows.append(f"{begin} {begin + rng.randint(1, 30)}")
    return "\n".join([str(size), *rows]) + "\n"


def _with_rank(rng: random.Random, p: Parameters, size: int) -> str:
    n = max(size, 2)
    return f"{n} {rng.randint(1, n * (n - 1) // 2)}\n{listed(rng.randint(1, 10**6) for _ in range(n))}\n"


def _longer(rng: random.Random, p: Parameters, size: int) -> str:
    n = p["K"] + size
    return f"{n}\n{listed(rng.randint(1, 10**6) for _ in range(n))}\n"


_ARRAY = "The first line has n, the second n numbers. n is at most 20000."
_SPANS = (
    "The first line has n, at most 5000; each of the next n lines has begin and end of a {story} (0 <= begin < end)."
)

KINDS = (
    Kind(
        name="pairs",
        tier=2,
        statement="Count the pairs of positions whose numbers have a sum that {K} divides.",
        given=_ARRAY + " The numbers are from 0 to 1000000.",
        wanted="the count",
        parameters=between("K", 3, 60),
        make=array(0, 10**6),
        solve=pairs,
        brute=_pairs,
        small=12,
        large=16000,
    ),
    Kind(
        name="window",
        tier=3,
        statement="Find the length of the longest contiguous part with at most {K} different numbers.",
        given=_ARRAY + " The numbers are from 1 to 50.",
        wanted="the length",
        parameters=between("K", 2, 9),
        make=array(1, 50),
        solve=window,
        brute=_window,
        small=14,
        large=16000,
    ),
    Kind(
        name="segment",
        tier=3,
        statement="Find the largest sum of a contiguous part of at least {K} numbers; if there are fewer, of all.",
        given=_ARRAY + " The numbers are from -1000 to 1000.",
        wanted="the sum",
        parameters=between("K", 2, 40),
        make=array(-1000, 1000),
        solve=segment,
        brute=_segment,
        small=14,
        large=16000,
    ),
    Kind(
        name="inversions",
        tier=4,
        statement="Count the pairs i < j for which the i-th number is larger than the j-th by more than {K}.",
        given=_ARRAY + " The numbers are from 1 to 1000.",
        wanted="the count",
        parameters=between("K", 1, 200),
        make=array(1, 1000),
        solve=inversions,
        brute=_inversions,
        small=14,
        large=16000,
    ),
    Kind(
        name="chain",
        tier=5,
        statement="Find the length of the longest subsequence (not necessarily contiguous) in which each number is "
        "larger than the one before, by at most {K}.",
        given=_ARRAY + " The numbers are from 0 to 5000.",
        wanted="the length",
        parameters=between("K", 2, 60),
        make=array(0, 5000),
        solve=chain,
        brute=_chain,
        small=16,
        large=9000,
    ),
    Kind(
        name="medians",
        tier=4,
        statement="For every contiguous part of exactly {K} numbers take the lower median, which is the number at "
        "position ({K} + 1) // 2 of the part in ascending order, counted from 1. Add them all up.",
        given="The first line has n, the second n numbers. n is at least {K} and at most 20000.",
        wanted="the sum",
        parameters=between("K", 3, 300),
        make=_longer,
        solve=medians,
        brute=_medians,
        small=12,
        large=12000,
    ),
    Kind(
        name="pair_sum",
        tier=6,
        statement="Of the sums of all pairs of different positions, in ascending order and with repetitions, find "
        "the k-th.",
        given="The first line has n (at most 20000) and k (at most n (n - 1) / 2), the second n numbers from 1 to "
        "1000000.",
        wanted="the sum",
        parameters=lambda _: {},
        make=_with_rank,
        solve=pair_sum,
        brute=_pair_sum,
        small=10,
        large=7000,
    ),
    Kind(
        name="rooms",
        tier=3,
        statement="Every meeting needs a room from its begin until its end, and the room is cleaned for {K} minutes "
        "afterwards. A room is free again when cleaning ends. Find how many rooms are needed.",
        given=_SPANS.replace("{story}", "meeting"),
        wanted="the number of rooms",
        parameters=between("K", 1, 25),
        make=_spans,
        solve=rooms,
        brute=_rooms,
        small=9,
        large=5000,
    ),
    Kind(
        name="schedule",
        tier=3,
        statement="One machine does jobs one after the other, and rests for {K} minutes after each. Find how many of "
        "the jobs it can do at most.",
        given=_SPANS.replace("{story}", "job"),
        wanted="the number of jobs",
        parameters=between("K", 1, 9),
        make=_spans,
        solve=schedule,
        brute=_schedule,
        small=10,
        large=5000,
    ),
)

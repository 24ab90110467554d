"""Programming problems about graphs, trees and grids."""

from __future__ import annotations

import random

from palmette.envs.general.problems.kind import Kind, Parameters, between, numbers


def walls(text: str, p: Parameters) -> object:
    """Search breadth first over cells and walls broken."""
    from collections import deque

    lines = text.split()
    height, width, grid = int(lines[0]), int(lines[1]), lines[2:]
    seen = {(0, 0, 0)}
    queue = deque([(0, 0, 0, 0)])
    while queue:
        y, x, broken, steps = queue.popleft()
        if (y, x) == (height - 1, width - 1):
            return steps
        for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if 0 <= v < height and 0 <= u < width:
                state = (v, u, broken + (grid[v][u] == "#"))
                if state[2] <= p["K"] and state not in seen:
                    seen.add(state)
                    queue.append((*state, steps + 1))
    return -1


def _walls(text: str, p: Parameters) -> object:
    lines = text.split()
    height, width, grid = int(lines[0]), int(lines[1]), lines[2:]
    best = {(0, 0, 0): 0}
    for _ in range(height * width * 2):  # relax until nothing can change
        for (y, x, broken), steps in list(best.items()):
            for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= v < height and 0 <= u < width:
                    state = (v, u, broken + (grid[v][u] == "#"))
                    if state[2] <= p["K"]:
                        best[state] = min(best.get(state, 10**9), steps + 1)
    ends = [s for (y, x, _), s in best.items() if (y, x) == (height - 1, width - 1)]
    return min(ends, default=-1)


def tolls(text: str, p: Parameters) -> object:
    """Let Dijkstra run over places and the number of roads since the last rest."""
    import heapq

    values = list(map(int, text.split()))
    n, m = values[:2]
    roads = [[] for _ in range(n + 1)]
    for i in range(m):
        a, b, c = values[2 + 3 * i : 5 + 3 * i]
        roads[a].append((b, c))
        roads[b].append((a, c))
    best, heap = {}, [(0, 1, 0)]
    while heap:
        cost, at, count = heapq.heappop(heap)
        if (at, count) in best:
            continue
        best[at, count] = cost
        if at == n:
            return cost
        for b, c in roads[at]:
            later = (count + 1) % p["K"]
            if (b, later) not in best:
                heapq.heappush(heap, (cost + c + (p["T"] if later == 0 else 0), b, later))
    return -1


def _tolls(text: str, p: Parameters) -> object:
    values = numbers(text)
    n, m = values[:2]
    rows = [values[2 + 3 * i : 5 + 3 * i] for i in range(m)]
    roads = rows + [[b, a, c] for a, b, c in rows]
    now, best = {1: 0}, 0 if n == 1 else None
    for step in range(1, n * p["K"] + 2):
        after: dict[int, int] = {}
        for a, b, c in roads:
            if a in now:
                cost = now[a] + c + (p["T"] if step % p["K"] == 0 else 0)
                after[b] = min(after.get(b, cost), cost)
        now = after
        if n in now:
            best = now[n] if best is None else min(best, now[n])
    return -1 if best is None else best


def order(text: str, p: Parameters) -> object:
    """Always take the smallest that is ready."""
    import heapq

    values = list(map(int, text.split()))
    n, m = values[:2]
    after, waits = [[] for _ in range(n + 1)], [0] * (n + 1)
    for i in range(m):
        a, b = values[2 + 2 * i : 4 + 2 * i]
        after[a].append(b)
        waits[b] += 1
    ready, done = [x for x in range(1, n + 1) if not waits[x]], []
    heapq.heapify(ready)
    while ready:
        x = heapq.heappop(ready)
        done.append(x)
        for b in after[x]:
            waits[b] -= 1
            if not waits[b]:
                heapq.heappush(ready, b)
    return " ".join(map(str, done)) if len(done) == n else "impossible"


def _order(text: str, p: Parameters) -> object:
    values = numbers(text)
    n, m = values[:2]
    rows = [values[2 + 2 * i : 4 + 2 * i] for i in range(m)]
    done: list[int] = []
    while len(done) < n:
        free = [x for x in range(1, n + 1) if x not in done and all(a in done for a, b in rows if b == x)]
        if not free:
            return "impossible"
        done.append(free[0])
    return " ".join(map(str, done))


def removals(text: str, p: Parameters) -> object:
    """Put the removed roads back, last first, and join sets."""
    values = list(map(int, text.split()))
    n, m, q = values[:3]
    rows = [tuple(values[3 + 2 * i : 5 + 2 * i]) for i in range(m)]
    gone = values[3 + 2 * m : 3 + 2 * m + q]
    root = list(range(n + 1))

    def find(x):
        while root[x] != x:
            root[x] = root[root[x]]
            x = root[x]
        return x

    groups, removed = n, set(gone)
    for i in range(1, m + 1):
        if i not in removed:
            a, b = map(find, rows[i - 1])
            if a != b:
                root[a], groups = b, groups - 1
    told = []
    for i in reversed(gone):
        told.append(groups)
        a, b = map(find, rows[i - 1])
        if a != b:
            root[a], groups = b, groups - 1
    return " ".join(map(str, reversed(told)))


def _removals(text: str, p: Parameters) -> object:
    values = numbers(text)
    n, m, q = values[:3]
    rows = {i + 1: (values[3 + 2 * i], values[4 + 2 * i]) for i in range(m)}
    told = []
    for gone in values[3 + 2 * m : 3 + 2 * m + q]:
        del rows[gone]
        group = {x: {x} for x in range(1, n + 1)}
        for a, b in rows.values():
            joined = group[a] | group[b]
            for x in joined:
                group[x] = joined
        told.append(len({id(each) for each in group.values()}))
    return " ".join(map(str, told))


def apart(text: str, p: Parameters) -> object:
    """Count, below each place, how many lie at each distance; join the smaller into the larger."""
    values = list(map(int, text.split()))
    n, k = values[0], p["K"]
    near = [[] for _ in range(n + 1)]
    for a, b in zip(values[1::2], values[2::2], strict=True):
        near[a].append(b)
        near[b].append(a)
    order, parent = [1], [0] * (n + 1)
    for x in order:
        for y in near[x]:
            if y != parent[x]:
                parent[y] = x
                order.append(y)
    below, total = [[] for _ in range(n + 1)], 0  # counts by distance, the nearest last
    for x in reversed(order):
        below[x].append(1)
        if len(below[x]) > k:
            total += below[x][-1 - k]
        up = parent[x]
        if not up:
            continue
        large, small = below[up], below[x]
        if len(large) < len(small):
            large, small = small, large
        for i in range(1, len(small) + 1):
            other = k - 2 - (i - 1)  # distances from the two children's level, one more on each side
            if 0 <= other < len(large):
                total += small[-i] * large[-1 - other]
        for i in range(1, len(small) + 1):
            large[-i] += small[-i]
        below[up], below[x] = large, []
    return total


def _apart(text: str, p: Parameters) -> object:
    values = numbers(text)
    n = values[0]
    far = [[0 if i == j else 10**6 for j in range(n + 1)] for i in range(n + 1)]
    for a, b in zip(values[1::2], values[2::2], strict=True):
        far[a][b] = far[b][a] = 1
    for k in range(1, n + 1):
        for i in range(1, n + 1):
            for j in range(1, n + 1):
                far[i][j] = min(far[i][j], far[i][k] + far[k][j])
    return sum(far[i][j] == p["K"] for i in range(1, n + 1) for j in range(1, i))


def assign(text: str, p: Parameters) -> object:
    """Keep the least cost of every set of workers used."""
    values = list(map(int, text.split()))
    n, cost = values[0], values[1:]
    least = {0: 0}
    for job in range(n):
        after = {}
        for used, paid in least.items():
            for worker in range(n):
                if not used >> worker & 1 and abs(worker - job) % p["K"] != p["K"] - 1:
                    key, value = used | 1 << worker, paid + cost[job * n + worker]
                    if value < after.get(key, 10**9):
                        after[key] = value
        least = after
    return min(least.values(), default=-1)


def _assign(text: str, p: Parameters) -> object:
    from itertools import permutations

    values = numbers(text)
    n, cost, k = values[0], values[1:], p["K"]
    sums = [
        sum(cost[job * n + worker] for job, worker in enumerate(order))
        for order in permutations(range(n))
        if all(abs(worker - job) % k != k - 1 for job, worker in enumerate(order))
    ]
    return min(sums, default=-1)


def _grid(rng: random.Random, p: Parameters, size: int) -> str:
    height, width = rng.randint(2, size), rng.randint(2, size)
    rows = ["".join("#" if rng.random() < 0.45 else "." for _ in range(width)) for _ in range(height)]
    rows[0], rows[-1] = "." + rows[0][1:], rows[-1][:-1] + "."
    return "\n".join([f"{height} {width}", *rows]) + "\n"


def _roads(rng: random.Random, p: Parameters, size: int) -> str:
    n, m = size, 2 * size
    rows = [f"{rng.randint(1, n)} {rng.randint(1, n)} {rng.randint(1, 50)}" for _ in range(m)]
    return "\n".join([f"{n} {m}", *rows]) + "\n"


def _before(rng: random.Random, p: Parameters, size: int) -> str:
    n, m = size, size + size // 2
    names = rng.sample(range(1, n + 1), n)
    rows = [sorted(rng.sample(range(n), 2)) for _ in range(m)]
    if rng.random() < 0.25:
        rows[0].reverse()
    return "\n".join([f"{n} {m}", *(f"{names[a]} {names[b]}" for a, b in rows)]) + "\n"


def _cuts(rng: random.Random, p: Parameters, size: int) -> str:
    n, m = size, size + size // 2
    q = rng.randint(1, m)
    rows = [f"{rng.randint(1, n)} {rng.randint(1, n)}" for _ in range(m)]
    return "\n".join([f"{n} {m} {q}", *rows, *map(str, rng.sample(range(1, m + 1), q))]) + "\n"


def _tree(rng: random.Random, p: Parameters, size: int) -> str:
    reach = rng.choice((2, 20, size))
    rows = [f"{rng.randint(max(1, x - reach), x - 1)} {x}" for x in range(2, size + 1)]
    return "\n".join([str(size), *rows]) + "\n"


def _costs(rng: random.Random, p: Parameters, size: int) -> str:
    rows = [" ".join(str(rng.randint(1, 99)) for _ in range(size)) for _ in range(size)]
    return "\n".join([str(size), *rows]) + "\n"


KINDS = (
    Kind(
        name="walls",
        tier=4,
        statement="Walk in a grid from the top left to the bottom right cell, one step up, down, left or right at a "
        "time. Cells with '#' are walls; you may step on at most {K} of them.",
        given="The first line has height and width (2 to 60), then the rows of the grid follow, of '.' and '#'. The "
        "first and the last cell are free.",
        wanted="the least number of steps, or -1 if there is no way",
        parameters=between("K", 1, 5),
        make=_grid,
        solve=walls,
        brute=_walls,
        small=4,
        large=60,
    ),
    Kind(
        name="tolls",
        tier=5,
        statement="Travel from place 1 to place n on roads that go both ways and may be used again. Every {K}-th road "
        "of the journey (the {K}-th, twice the {K}-th and so on) costs {T} more.",
        given="The first line has n and m (n at most 1500), each of the next m lines two places and a road's cost.",
        wanted="the least cost, or -1 if there is no way",
        parameters=lambda rng: {"K": rng.randint(2, 4), "T": rng.randint(5, 90)},
        make=_roads,
        solve=tolls,
        brute=_tolls,
        small=6,
        large=1500,
    ),
    Kind(
        name="order",
        tier=3,
        statement="Put the jobs 1 to n in an order in which each comes after all that it needs. Of all such orders "
        "take the one that begins with the smallest number, then has the smallest second one, and so on.",
        given="The first line has n and m (n at most 5000), each of the next m lines 'a b': b needs a.",
        wanted="the order on one line, or impossible",
        parameters=lambda _: {},
        make=_before,
        solve=order,
        brute=_order,
        small=6,
        large=5000,
    ),
    Kind(
        name="removals",
        tier=5,
        statement="Roads join n places, and are closed one after the other. A group is a largest set of places between "
        "which one can still go. Find the number of groups after each closing.",
        given="The first line has n, m and q (n at most 4000), each of the next m lines the two places of a road "
        "(they may be the same), then q different numbers of roads follow, one a line, counted from 1, in the order in "
        "which they are closed.",
        wanted="the q numbers on one line",
        parameters=lambda _: {},
        make=_cuts,
        solve=removals,
        brute=_removals,
        small=6,
        large=4000,
    ),
    Kind(
        name="apart",
        tier=6,
        statement="In a tree, count the pairs of places between which the way has exactly {K} roads.",
        given="The first line has n (at most 20000), each of the next n - 1 lines the two places of a road.",
        wanted="the count",
        parameters=between("K", 2, 9),
        make=_tree,
        solve=apart,
        brute=_apart,
        small=10,
        large=20000,
    ),
    Kind(
        name="assign",
        tier=5,
        statement="Give each of n jobs to a worker of its own. Job i must not go to worker j if the remainder of "
        "|i - j| by {K} is {K} - 1. Find the least total cost.",
        given="The first line has n (at most 12). Line i of the next n lines has job i's costs for workers 1 to n.",
        wanted="the least cost, or -1 if it is impossible",
        parameters=between("K", 2, 5),
        make=_costs,
        solve=assign,
        brute=_assign,
        small=5,
        large=12,
    ),
)

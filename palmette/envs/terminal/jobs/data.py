"""Jobs over data: logs, tables, encodings, settings."""

from __future__ import annotations

import json
from collections import Counter

from palmette.envs.checks import text
from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.job import Job, lines, silent

_ACCENTS = str.maketrans("aeiou", "áéíöü")


def errors_by_path(n: Names) -> Job:
    """Count server errors by path in an access log."""
    folder, log, out = n.word(), n.word() + ".log", n.word() + ".txt"
    paths = ["/" + w for w in n.words(5)]
    codes = (200, 200, 301, 404, 500, 502, 503)
    rows = [(n.rng.choice(paths), n.rng.choice(codes)) for _ in range(n.rng.randint(60, 120))] + [(paths[0], 500)]
    n.rng.shuffle(rows)
    log_text = lines(
        f"10.0.{n.rng.randrange(9)}.{n.rng.randrange(250)} - - [03/Mar/2026:{i // 60:02}:{i % 60:02}:00 +0000] "
        f'"GET {path} HTTP/1.1" {code} {n.rng.randint(90, 9000)}'
        for i, (path, code) in enumerate(rows)
    )
    found = Counter(path for path, code in rows if code >= 500)
    want = lines(f"{count} {path}" for path, count in sorted(found.items(), key=lambda item: (-item[1], item[0])))
    inside, outside = f"{folder}/{log}", f"{folder}/{out}"
    return Job(
        family="errors_by_path",
        specification=f"{inside} is an access log in common log format. Write to {outside} one line for every "
        "path that "
        "was answered at least once with a status of 500 or above: the number of such answers, a space, the path. "
        "Sort by number, largest first, and paths with equal numbers alphabetically.",
        request=f"Count the server errors (5xx) per path in {inside} and write them to {outside} as lines "
        "'COUNT PATH', most errors first, ties by path.",
        colloquial=f"Something in {inside} keeps returning 5xx. Which paths, how often? Put 'count path' lines, worst "
        f"first (then a-z), in {outside}.",
        files={inside: log_text},
        commands=silent(
            f"awk '$9 >= 500 {{ n[$7]++ }} END {{ for (p in n) print n[p], p }}' {inside} "
            f"| LC_ALL=C sort -k1,1nr -k2,2 > {outside}"
        ),
        checks=(text(outside, want), text(inside, log_text)),
        outputs={outside: want},
    )


def slowest(n: Names) -> Job:
    """Find the slowest request of every service in a log of JSON lines."""
    folder, log, out = n.word(), n.word() + ".jsonl", n.word() + ".csv"
    services, worst, rows = n.words(4), dict[str, tuple[int, str]](), list[str]()
    took = iter(n.rng.sample(range(3, 9000), 60))
    for number in range(40):
        service, ms, key = n.rng.choice(services), next(took), f"r{number:03}"
        level = n.rng.choice(("info", "info", "debug", "warn"))
        rows.append(json.dumps({"level": level, "service": service, "ms": ms, "id": key}))
        if level != "debug":
            worst[service] = max(worst.get(service, (0, "")), (ms, key))
    rows.insert(n.rng.randrange(len(rows)), "-- log restarted --")
    want = lines(f"{service},{key},{ms}" for service, (ms, key) in sorted(worst.items()))
    inside, outside = f"{folder}/{log}", f"{folder}/{out}"
    program = (
        "import json\nworst = {}\n"
        f"for line in open('{inside}'):\n"
        "    if not line.startswith('{'): continue\n"
        "    r = json.loads(line)\n"
        "    if r['level'] != 'debug': worst[r['service']] = max(worst.get(r['service'], (0, '')), (r['ms'], "
        "r['id']))\n"
        f"with open('{outside}', 'w') as f:\n"
        "    for s, (ms, i) in sorted(worst.items()): f.write(f'{s},{i},{ms}\\n')"
    )
    return Job(
        family="slowest",
        specification=f"{inside} holds a JSON object a line, with level, service, ms and id; lines that are no objects "
        f"are to be skipped, and so are those of level debug. For every service write its slowest request to {outside} "
        "as SERVICE,ID,MS, sorted by service, without a header.",
        request=f"For each service in {inside} (JSON lines), find the slowest request, debug lines left out, and write "
        f"SERVICE,ID,MS lines sorted by service to {outside}.",
        colloquial=f"What's the slowest call per service in {inside}? Ignore debug noise. Want {outside} with "
        "service,id,ms, alphabetical.",
        files={inside: lines(rows)},
        commands=silent(f"python3 - <<'END'\n{program}\nEND"),
        checks=(text(outside, want),),
        outputs={outside: want},
    )


def totals(n: Names) -> Job:
    """Join two tables and add up."""
    folder, left, right, out = n.word(), n.word() + ".csv", n.word() + ".tsv", n.word() + ".txt"
    people = {f"c{number}": name for number, name in zip(n.rng.sample(range(10, 99), 6), n.words(6), strict=True)}
    orders = [(n.rng.choice(list(people)), n.rng.randint(1, 500)) for _ in range(30)]
    sums = Counter[str]()
    for key, amount in orders:
        sums[people[key]] += amount
    want = lines(f"{name} {total}" for name, total in sorted(sums.items(), key=lambda item: (-item[1], item[0])))
    files = {
        f"{folder}/{left}": "order,customer,amount\n" + lines(f"{i},{k},{a}" for i, (k, a) in enumerate(orders, 1)),
        f"{folder}/{right}": lines(f"{key}\t{name}" for key, name in people.items()),
    }
    outside = f"{folder}/{out}"
    return Job(
        family="totals",
        specification=f"{folder}/{left} is a CSV of orders (order,customer,amount, with a header); "
        f"{folder}/{right} maps "
        f"customer to name, separated by a tab. Write to {outside}, for every customer with an order, the name, a "
        "space "
        "and the sum of the amounts; largest sum first, equal sums by name.",
        request=f"Join the orders in {folder}/{left} with the names in {folder}/{right} and write 'NAME TOTAL' lines, "
        f"largest total first, ties by name, to {outside}.",
        colloquial=f"Who spent the most? orders are in {folder}/{left}, names in {folder}/{right}. List 'name "
        "total' in "
        f"{outside}, biggest first.",
        files=files,
        commands=silent(
            f'awk \'NR == FNR {{ split($0, a, "\\t"); name[a[1]] = a[2]; next }} FNR > 1 {{ split($0, b, ","); '
            f"sum[name[b[2]]] += b[3] }} END {{ for (k in sum) print k, sum[k] }}' {folder}/{right} {folder}/{left} "
            f"| LC_ALL=C sort -k2,2nr -k1,1 > {outside}"
        ),
        checks=(text(outside, want),),
        outputs={outside: want},
    )


def encoding(n: Names) -> Job:
    """Convert old text files to UTF-8 with Unix line ends."""
    folder, names = n.word(), [n.word() + ".txt" for _ in range(3)]
    texts = {name: [w.translate(_ACCENTS) for w in n.words(3)] for name in names}
    files = {f"{folder}/{name}": "".join(f"{w}\r\n" for w in ws).encode("latin-1") for name, ws in texts.items()}
    return Job(
        family="encoding",
        specification=f"The .txt files in {folder} are in ISO-8859-1 with CRLF line ends. Convert each in place "
        "to UTF-8 "
        "with LF line ends and change nothing else.",
        request=f"Convert the .txt files in {folder} in place from Latin-1 with Windows line ends to UTF-8 with Unix "
        "line ends.",
        colloquial=f"The umlauts in {folder}/*.txt are garbage here, they came from an old Windows box. Make them "
        "plain "
        "UTF-8 (unix newlines), same file names.",
        files=files,
        commands=silent(
            f"for f in {folder}/*.txt; do iconv -f ISO-8859-1 -t UTF-8 $f | tr -d '\\r' > $f.new && mv $f.new $f; done"
        ),
        checks=tuple(
            {"kind": "bytes", "path": f"{folder}/{name}", "hex": lines(ws).encode().hex()} for name, ws in texts.items()
        ),
    )


def settings(n: Names) -> Job:
    """Rename a key in all settings but those of others."""
    folder, old, new, other = n.word(), n.word(), n.word(), n.word()
    names = [f"{n.word()}/{n.word()}.ini" for _ in range(3)]
    mine = {name: f"[{n.word()}]\n{old} = {n.rng.randint(1, 99)}\n{other}_{old} = 1\n" for name in names}
    theirs = {f"vendor/{n.word()}.ini": f"{old} = 7\n", f"{n.word()}.md": f"{old} = documented\n"}
    want = {name: body.replace(f"\n{old} =", f"\n{new} =") for name, body in mine.items()} | theirs
    return Job(
        family="settings",
        specification=f"Rename the setting {old} to {new} in every .ini file below {folder}, at the beginning of its "
        f"line only, so that longer names such as {other}_{old} stay. Leave {folder}/vendor and all other kinds of "
        "file as they are.",
        request=f"Rename the key {old} to {new} in all .ini files below {folder}, except those in "
        f"{folder}/vendor; keys "
        "that merely contain it stay.",
        colloquial=f"{old} is called {new} now, fix our ini files under {folder} (not vendor, and don't touch "
        f"{other}_{old}).",
        files={f"{folder}/{name}": body for name, body in (mine | theirs).items()},
        commands=silent(
            f"find {folder} -name '*.ini' -not -path '*/vendor/*' -exec sed -i 's/^{old} =/{new} =/' {{}} +"
        ),
        checks=({"kind": "tree", "path": folder, "files": want},),
    )


def records(n: Names) -> Job:
    """Turn a dirty table into JSON."""
    folder, table, out = n.word(), n.word() + ".csv", n.word() + ".json"
    rows = [(n.word(), n.rng.randint(1, 90), n.rng.choice(("yes", "no", ""))) for _ in range(8)]
    body = "".join(f'"{name.title()}, {name}" ; {count};{flag}\n' for name, count, flag in rows)
    value = [
        {"name": f"{name.title()}, {name}", "count": count, "active": flag == "yes" if flag else None}
        for name, count, flag in sorted(rows, key=lambda row: f"{row[0].title()}, {row[0]}")
    ]
    inside, outside = f"{folder}/{table}", f"{folder}/{out}"
    program = (
        "import json\nrows = []\n"
        f"for line in open('{inside}').read().splitlines()[1:]:\n"
        "    name, count, flag = (p.strip().strip('\"') for p in line.split(';'))\n"
        "    rows.append({'name': name, 'count': int(count), 'active': None if not flag else flag == 'yes'})\n"
        f"json.dump(sorted(rows, key=lambda r: r['name']), open('{outside}', 'w'))"
    )
    return Job(
        family="records",
        specification=f"{inside} has a header and the columns name;count;active, separated by semicolons; names may be "
        f"quoted and cells padded with spaces. Write {outside}: a JSON array of objects with name (a string "
        "without the "
        "quotes), count (a number) and active (true for yes, false for no, null for empty), sorted by name.",
        request=f"Convert {inside} (semicolons, quoted names, padding) to a JSON array in {outside}, sorted by "
        "name, with "
        "count as a number and active as true, false or null.",
        colloquial=f"I need {inside} as proper JSON ({outside}): numbers as numbers, yes/no/blank as "
        "true/false/null in "
        "'active', same keys as the header, by name.",
        files={inside: "name;count;active\n" + body},
        commands=silent(f"python3 - <<'END'\n{program}\nEND"),
        checks=({"kind": "json", "path": outside, "value": value},),
    )

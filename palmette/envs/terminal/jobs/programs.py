"""Jobs whose result is a program: it is run by the judge, on inputs that the agent has not seen."""

from __future__ import annotations

import json

from palmette.envs.checks import absent, runs, text
from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.job import Job, heredoc, lines, silent

_SERVER = '''\
"""Serve the values of a JSON file over HTTP: server.py SETTINGS.json ({"port": ..., "store": ...})."""
import http.server
import json
import os
import sys

settings = json.load(open(sys.argv[1]))
store = json.load(open(os.path.join(os.path.dirname(sys.argv[1]), settings["store"])))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        value = store.get(self.path.strip("/"))
        self.send_response(200 if value is not None else 404)
        self.end_headers()
        self.wfile.write(str(value).encode() if value is not None else b"unknown")

    def log_message(self, *args):
        pass


http.server.HTTPServer(("127.0.0.1", settings["port"]), Handler).serve_forever()
'''


def makefile(n: Names) -> Job:
    """Write a Makefile that builds one file out of whatever parts there are."""
    folder, target = n.word(), n.word() + ".txt"
    parts = {f"{folder}/parts/{n.word()}.part": n.word() + "\n" for _ in range(3)}
    more = {f"{folder}/parts/{n.word()}.part": n.word() + "\n" for _ in range(2)}
    order = sorted({**parts, **more})
    want = "".join({**parts, **more}[path] for path in order)
    body = (
        f"PARTS := $(sort $(wildcard parts/*.part))\n\nall: {target}\n\n{target}: $(PARTS)\n\tcat $(PARTS) > $@\n\n"
        f"clean:\n\trm -f {target}\n\n.PHONY: all clean\n"
    )
    return Job(
        family="makefile",
        specification=f"Write {folder}/Makefile. Run in {folder}, 'make' must build {target}: all files parts/*.part, "
        "however many there are, joined in the order of their names; a change of any part must rebuild it. 'make "
        "clean' "
        f"must remove {target} and succeed also when it is not there.",
        request=f"Write a Makefile in {folder} whose default target joins parts/*.part, in the order of their "
        "names, into "
        f"{target}, and with a clean target that removes it.",
        colloquial=f"I'm tired of cat'ing the parts/*.part files in {folder} together by hand. Give me a "
        "Makefile: make -> "
        f"{target} (sorted by name), make clean -> gone.",
        files=dict(parts),
        commands=silent(heredoc(f"{folder}/Makefile", body)),
        checks=(
            runs("make", "-s", "-C", folder, give=more, then=[text(f"{folder}/{target}", want)]),
            runs("make", "-s", "-C", folder, "clean", then=[absent(f"{folder}/{target}")]),
            runs("make", "-s", "-C", folder, "clean"),
        ),
    )


def service(n: Names) -> Job:
    """Make a small server start with the right settings."""
    folder, wrong = n.word(), n.word()
    port, values = n.rng.randint(8100, 8900), {n.word(): n.rng.randint(10, 9999) for _ in range(4)}
    store = n.word() + ".json"
    given = {"port": port + 1, "store": f"{wrong}.json"}
    start = f"#!/bin/sh\ncd /app/{folder}\nexec python3 server.py settings.json\n"
    asks = [{"path": f"/{key}", "text": str(value)} for key, value in values.items()]
    return Job(
        family="service",
        specification=f"{folder}/server.py serves the values of a JSON file as its settings say. Correct "
        f"{folder}/settings.json so that it listens on port {port} and serves {store}, and write "
        f"{folder}/start.sh such "
        f"that 'sh {folder}/start.sh', called from any directory, starts it. It will be started afresh and asked; "
        "server.py stays as it is.",
        request=f"Make 'sh {folder}/start.sh' start {folder}/server.py on port {port} with {store}: write the "
        "script and "
        f"correct {folder}/settings.json.",
        colloquial=f"The little key-value server in {folder} won't come up right. It should be on {port} and read "
        f"{store}. "
        "I want a start.sh next to it that just works.",
        files={
            f"{folder}/server.py": _SERVER,
            f"{folder}/settings.json": json.dumps(given) + "\n",
            f"{folder}/{store}": json.dumps(values) + "\n",
        },
        commands=silent(
            heredoc(f"{folder}/settings.json", json.dumps({"port": port, "store": store})),
            heredoc(f"{folder}/start.sh", start),
        ),
        checks=(
            text(f"{folder}/server.py", _SERVER),
            {
                "kind": "serve",
                "argv": ["sh", f"{folder}/start.sh"],
                "port": port,
                "asks": [*asks, {"path": f"/{wrong}", "status": 404}],
            },
        ),
    )


def rotate(n: Names) -> Job:
    """Write a script that rotates a log."""
    folder, log, keep = n.word(), n.word() + ".log", n.rng.randint(2, 4)
    bodies = n.words(keep + 1)
    now = {f"{folder}/{log}": bodies[0] + "\n"}
    now |= {f"{folder}/{log}.{number}": bodies[number] + "\n" for number in range(1, keep + 1)}
    after = [text(f"{folder}/{log}.{number + 1}", bodies[number]) for number in range(keep)]
    script = (
        f"#!/bin/sh\ncd /app/{folder} || exit 1\ni={keep}\nwhile [ $i -gt 1 ]; do\n  p=$((i - 1))\n"
        f"  if [ -e {log}.$p ]; then mv -f {log}.$p {log}.$i; fi\n  i=$p\ndone\n"
        f"if [ -e {log} ]; then mv -f {log} {log}.1; fi\n: > {log}\n"
    )
    return Job(
        family="rotate",
        specification=f"Write {folder}/rotate.sh, run as 'sh {folder}/rotate.sh'. It moves {folder}/{log} to "
        f"{log}.1 there, "
        f"{log}.1 to {log}.2 and so on, keeps at most {keep} old logs (the oldest is overwritten), and leaves an empty "
        f"{log}. Missing files are no error.",
        request=f"Write {folder}/rotate.sh that rotates {folder}/{log} to {log}.1, .1 to .2 and so on, keeping "
        f"{keep} old "
        "logs, and then leaves an empty log; it must cope with missing files.",
        colloquial=f"{folder}/{log} grows forever. Make a rotate.sh in there for cron: .1, .2 ... up to {keep}, "
        "fresh empty "
        "log afterwards, no fuss if some aren't there.",
        files={f"{folder}/{log}": n.word() + "\n"},
        commands=silent(heredoc(f"{folder}/rotate.sh", script)),
        checks=(
            runs(
                "sh",
                f"{folder}/rotate.sh",
                give=now,
                then=[*after, text(f"{folder}/{log}", ""), absent(f"{folder}/{log}.{keep + 1}")],
            ),
            runs("sh", f"{folder}/rotate.sh", then=[text(f"{folder}/{log}.2", bodies[0])]),
        ),
    )


def parallel(n: Names) -> Job:
    """Write a script that runs others at the same time and tells how they ended."""
    folder, jobs, out = n.word(), n.word(), n.word() + ".txt"
    names = sorted(n.words(4))
    codes = dict(zip(names, n.rng.sample((0, 0, 3, 7), 4), strict=True))
    give = {f"{folder}/{jobs}/{name}.sh": f"sleep 1\nexit {code}\n" for name, code in codes.items()}
    want = lines(f"{name} {code}" for name, code in codes.items())
    script = (
        f"#!/bin/sh\ncd /app/{folder} || exit 1\nrm -f {jobs}/*.code\n"
        f'for job in {jobs}/*.sh; do (sh "$job"; echo $? > "${{job%.sh}}.code") & done\nwait\nbad=0\n: > {out}\n'
        f'for code in {jobs}/*.code; do\n  name=$(basename "$code" .code)\n'
        f'  echo "$name $(cat "$code")" >> {out}\n  [ "$(cat "$code")" = 0 ] || bad=1\ndone\nrm -f {jobs}/*.code\n'
        "exit $bad\n"
    )
    example = f"{folder}/{jobs}/{names[0]}.sh"
    return Job(
        family="parallel",
        specification=f"Write {folder}/all.sh, run as 'sh {folder}/all.sh'. It runs every script in "
        f"{folder}/{jobs} with "
        f"sh, all at the same time, waits for them, and writes to {folder}/{out} a line 'NAME CODE' for each, "
        "sorted by "
        "name (without .sh). It exits with 1 if any of them failed, otherwise with 0.",
        request=f"Write {folder}/all.sh that runs all scripts in {folder}/{jobs} in parallel, waits, writes 'NAME "
        "CODE' "
        f"lines sorted by name (without .sh) to {folder}/{out}, and exits 1 if any failed, else 0.",
        colloquial=f"Need a {folder}/all.sh that fires up everything in {folder}/{jobs}/*.sh at once and "
        "afterwards lists "
        f"'name exitcode' (sorted, no .sh) in {folder}/{out}. Exit 1 if something broke.",
        files={example: "exit 0\n"},
        commands=silent(heredoc(f"{folder}/all.sh", script)),
        checks=(
            runs("sh", f"{folder}/all.sh", give=give, exit=1, timeout_s=3.5, then=[text(f"{folder}/{out}", want)]),
            runs(
                "sh",
                f"{folder}/all.sh",
                give=dict.fromkeys(give, "exit 0\n"),
                then=[text(f"{folder}/{out}", lines(f"{name} 0" for name in names))],
            ),
        ),
    )


def due(n: Names) -> Job:
    """Write a script that tells which jobs of a timetable are due."""
    folder, table = n.word(), n.word() + ".tab"
    rng, jobs = n.rng, n.words(6)
    minutes = ("*", "0", "30", "*/15", "*/20", str(rng.randrange(60)))
    rows = [(rng.choice(minutes), rng.choice(("*", str(rng.randrange(24)), "*/6")), job) for job in jobs]
    rows[0] = ("*/15", "*", jobs[0])
    times = ["00:00", f"{rng.randrange(24):02}:30", f"06:{rng.randrange(60):02}", "12:45", "23:07"]
    script = (
        "#!/bin/sh\n"
        f'awk -v h="${{1%:*}}" -v m="${{1#*:}}" \'function fits(f, v) {{ if (f == "*") return 1; '
        "if (f ~ /^\\*\\//) return v % substr(f, 3) == 0; return f + 0 == v }\n"
        f"NF && !/^#/ {{ if (fits($1, m + 0) && fits($2, h + 0)) print $3 }}' /app/{folder}/{table}\n"
    )

    def fits(field: str, value: int) -> bool:
        return field == "*" or (value % int(field[2:]) == 0 if field.startswith("*/") else int(field) == value)

    def expected(time: str) -> str:
        hour, minute = map(int, time.split(":"))
        return lines(job for m, h, job in rows if fits(m, minute) and fits(h, hour))

    return Job(
        family="due",
        specification=f"{folder}/{table} holds lines 'MINUTE HOUR NAME'; a field is a number, * (any) or */N "
        "(divisible by "
        f"N); lines that begin with # and empty lines do not count. Write {folder}/due.sh such that 'sh "
        f"{folder}/due.sh "
        "HH:MM' prints the names that are due at that time, one a line, in the order of the table.",
        request=f"Write {folder}/due.sh: called with HH:MM it prints the names of the jobs in {folder}/{table} (lines "
        "'MINUTE HOUR NAME' with numbers, * and */N, # for comments) that are due then, in the table's order.",
        colloquial=f"{folder}/{table} is like a crontab but just minute, hour, name (*, */N and numbers, # "
        "comments). I want "
        f"'sh {folder}/due.sh 06:30' to tell me what runs then, top to bottom.",
        files={f"{folder}/{table}": "# minute hour name\n" + lines(" ".join(row) for row in rows)},
        commands=silent(heredoc(f"{folder}/due.sh", script)),
        checks=tuple(runs("sh", f"{folder}/due.sh", time, prints=expected(time)) for time in times),
    )

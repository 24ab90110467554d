"""Games with rules: every move is made with the mouse, and every rule is tried."""

from __future__ import annotations

from palmette.envs.terminal.goals import Names
from palmette.envs.web.brief import Brief, document
from palmette.envs.web.plan import AXE, QUIET, SOUND, Goal, Step, click, opened, press, see

_OPEN = opened("index.html")


def crosses(n: Names) -> Brief:
    """Noughts and crosses for two at one screen, with a score that is kept."""
    title, one, two, again = n.words(4)

    def play(*fields: int) -> list[Step]:
        return [{"do": "click_nth", "selector": ".cell", "nth": field} for field in fields]

    def state(text: str, left: int, right: int) -> list[Step]:
        return [see("#told", text=text), see("#score", text=f"{one} {left} : {right} {two}")]

    first = n.rng.choice(([0, 3, 1, 4, 2], [2, 0, 4, 1, 6], [1, 0, 4, 2, 7]))
    second = n.rng.choice(([0, 2, 1, 4, 8, 6], [3, 0, 4, 1, 8, 2]))
    drawn = [0, 1, 2, 4, 3, 5, 7, 6, 8]
    steps = [
        _OPEN,
        {"do": "title", "text": title},
        see(".cell", count=9),
        {"do": "columns", "selector": ".cell", "count": 3},
        *state(f"Turn: {one}", 0, 0),
        *play(first[0], first[0]),  # a field that is taken stays as it is
        *state(f"Turn: {two}", 0, 0),
        *play(*first[1:]),
        *state(f"{one} wins", 1, 0),
        *play(8 if 8 not in first else 5),  # nothing happens any more
        *state(f"{one} wins", 1, 0),
        click("#again"),
        see(".cell", texts=[""] * 9, visible=False),
        *play(*second),
        *state(f"{two} wins", 1, 1),
        {"do": "reload"},
        *state(f"Turn: {one}", 1, 1),
        *play(*drawn[:-1]),
        *state(f"Turn: {one}", 1, 1),
        *play(drawn[-1]),
        *state("Draw", 1, 1),
        see(".cell", texts=["XO"[drawn.index(field) % 2] for field in range(9)]),
        AXE,
        QUIET,
    ]
    phone = [
        _OPEN,
        *SOUND,
        {"do": "targets", "least": 44},
        *play(4),
        see("#told", text=f"Turn: {two}"),
        QUIET,
    ]
    return Brief(
        family="crosses",
        user=f"My children {one} and {two} want to play noughts and crosses on the tablet, and see who won how often.",
        design=f"Design the game {title} for {one} (X, begins) and {two} (O): a board of three by three large "
        f"fields, a "
        "line that says whose turn it is or who won, the score below, and a button for another game. It is to look "
        "good "
        "on a wide screen and on a phone.",
        implementation=f"Implement noughts and crosses in index.html, title {title}: {one} is X and always begins, "
        f"{two} "
        "is O. Taken fields and finished games ignore clicks. Wins are kept in localStorage.",
        contract=(
            f"It is index.html with the title {title}; the fields are nine elements of class cell, row by row, that "
            f"say "
            "X, O or nothing.",
            f"#told says Turn: NAME, NAME wins, or Draw; #score says for example {one} 1 : 0 {two}; #again ({again}) "
            "begins another game; the score outlives a reload.",
        ),
        reference={"index.html": _crosses_page(title, one, two, again)},
        goals=[Goal(name="game", steps=steps), Goal(name="on a phone", size="phone", steps=phone)],
    )


def sticks(n: Names) -> Brief:
    """Nim: who takes the last stick loses; with keys as well."""
    title, one, two, again = n.words(4)
    count = n.rng.randint(9, 13)

    def state(player: str, left: int) -> list[Step]:
        return [see("#told", text=f"{player}: {left} left"), see(".stick", count=left)]

    steps, left, turn = [_OPEN, {"do": "title", "text": title}, *state(one, count)], count, 0
    while left > 2:
        k = min(n.rng.randint(1, 3), left - 2)
        by_key = n.rng.random() < 0.5
        steps.append(press(str(k)) if by_key else click("#take button", with_text=str(k)))
        left, turn = left - k, 1 - turn
        steps += state((one, two)[turn], left)
    steps += [see("#take button:disabled", count=1, text="3"), press("3"), *state((one, two)[turn], 2)]
    steps += [press("2"), see("#told", text=f"{(one, two)[1 - turn]} wins"), see(".stick", count=0)]
    steps += [see("#take button:disabled", count=3), click("#again"), *state(one, count), AXE, QUIET]
    phone = [_OPEN, *SOUND, {"do": "targets", "least": 44}, *state(one, count), QUIET]
    return Brief(
        family="sticks",
        user=f"{one} and {two} want to play the game where one takes up to three sticks and who takes the last one "
        f"loses.",
        design=f"Design the game {title}: a row of {count} sticks, three buttons to take 1, 2 or 3, a line that says "
        f"whose turn it is and how many are left, and who wins. {one} begins. It is to look good on a wide screen "
        f"and on "
        "a phone; the keys 1, 2, 3 work too, and what cannot be taken is disabled.",
        implementation=f"Implement misère nim in index.html, title {title}: {count} sticks, 1 to 3 a move by button or "
        f"key, moves that take more than is left do nothing and their buttons are disabled; {one} begins, and who "
        f"takes "
        "the last stick loses.",
        contract=(
            f"It is index.html with the title {title}; the {count} sticks are elements of class stick, the buttons "
            f"1, 2 "
            "and 3 are in #take.",
            f"#told says for example {one}: 5 left, or at the end {two} wins; #again ({again}) begins anew with {one}.",
        ),
        reference={"index.html": _sticks_page(title, one, two, again, count)},
        goals=[Goal(name="game", steps=steps), Goal(name="on a phone", size="phone", steps=phone)],
    )


def _crosses_page(title: str, one: str, two: str, again: str) -> str:
    body = f"""\
<h1>{title}</h1>
<p id="told" role="status"></p>
<div id="board">
{"".join(f'<button class="cell"></button>{chr(10)}' for _ in range(9))}</div>
<p id="score"></p>
<button id="again">{again}</button>
"""
    script = f"""\
const names = ["{one}", "{two}"], lines = [[0,1,2],[3,4,5],[6,7,8],[0,3,6],[1,4,7],[2,5,8],[0,4,8],[2,4,6]];
const cells = [...document.querySelectorAll(".cell")], told = document.getElementById("told");
const wins = JSON.parse(localStorage.getItem("wins") || "[0, 0]");
let board, turn, over;
function draw() {{
  cells.forEach((cell, i) => {{
    cell.textContent = board[i] < 0 ? "" : "XO"[board[i]];
    cell.setAttribute("aria-label", "field " + (i + 1) + " " + (cell.textContent || "empty"));
  }});
  document.getElementById("score").textContent = names[0] + " " + wins[0] + " : " + wins[1] + " " + names[1];
}}
function begin() {{
  board = Array(9).fill(-1); turn = 0; over = false;
  told.textContent = "Turn: " + names[0];
  draw();
}}
cells.forEach((cell, i) => cell.addEventListener("click", () => {{
  if (over || board[i] >= 0) return;
  board[i] = turn;
  if (lines.some(line => line.every(k => board[k] === turn))) {{
    over = true; wins[turn]++; localStorage.setItem("wins", JSON.stringify(wins));
    told.textContent = names[turn] + " wins";
  }} else if (board.every(field => field >= 0)) {{
    over = true; told.textContent = "Draw";
  }} else {{
    turn = 1 - turn; told.textContent = "Turn: " + names[turn];
  }}
  draw();
}}));
document.getElementById("again").addEventListener("click", begin);
begin();
"""
    style = """\
#board { display: grid; grid-template-columns: repeat(3, 96px); gap: 8px; margin-bottom: 24px; }
main { text-align: center; }
#board { justify-content: center; }
.cell { height: 96px; background: #fff; color: #1f2933; border: 1px solid #7b8794; font-size: 40px; line-height: 48px; }
"""
    return document(title, body, style=style, script=script)


def _sticks_page(title: str, one: str, two: str, again: str, count: int) -> str:
    body = f"""\
<h1>{title}</h1>
<p id="told" role="status"></p>
<div id="sticks"></div>
<div id="take">
<button>1</button>
<button>2</button>
<button>3</button>
</div>
<button id="again">{again}</button>
"""
    script = f"""\
const names = ["{one}", "{two}"], buttons = [...document.querySelectorAll("#take button")];
let left, turn;
function draw() {{
  document.getElementById("sticks").replaceChildren(...Array.from({{ length: left }}, () => {{
    const stick = document.createElement("span");
    stick.className = "stick";
    return stick;
  }}));
  buttons.forEach((button, i) => {{ button.disabled = i + 1 > left; }});
  document.getElementById("told").textContent = left ? names[turn] + ": " + left + " left" : names[turn] + " wins";
}}
function take(k) {{
  if (k > left) return;
  left -= k; turn = 1 - turn;
  draw();
}}
function begin() {{ left = {count}; turn = 0; draw(); }}
buttons.forEach((button, i) => button.addEventListener("click", () => take(i + 1)));
document.addEventListener("keydown", event => {{ if ("123".includes(event.key)) take(+event.key); }});
document.getElementById("again").addEventListener("click", begin);
begin();
"""
    style = """\
main { text-align: center; }
#sticks { display: flex; justify-content: center; gap: 8px; min-height: 120px; margin-bottom: 24px; }
.stick { width: 12px; height: 120px; background: #8d5524; border-radius: 4px; }
#take { display: flex; justify-content: center; gap: 16px; margin-bottom: 24px; }
#take button { width: 64px; }
button:disabled { background: #d9e2ec; color: #1f2933; }
"""
    return document(title, body, style=style, script=script)

"""The command line: what each command takes, and how every failure becomes one line.

The work is in `palmette.commands`, imported when a command runs, so that ``palmette --help`` answers at once. Answers
go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a check failed, 2 the user can mend
it, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

import palmette
from palmette.commands import connect
from palmette.commands.tasks_app import tasks_app
from palmette.errors import UserError

app = typer.Typer(
    name="palmette",
    help="Train agent models on your own tasks: specialise, then unify.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tasks_app, name="tasks")
agents_app = typer.Typer(no_args_is_help=True, help="Command-line agents: which there are, install one, try one.")
app.add_typer(agents_app, name="agents")
sandbox_app = typer.Typer(no_args_is_help=True, help="See, open and collect sandboxes; make images.")
app.add_typer(sandbox_app, name="sandbox")
images_app = typer.Typer(no_args_is_help=True, help="Root file systems for sandboxes, made without Docker.")
sandbox_app.add_typer(images_app, name="images")
connect.add_to(app)

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of one in recipes/.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value, e.g. rl.steps=20; repeatable.")
]
Runs = Annotated[Path, typer.Option(metavar="DIR", help="Where runs are kept.")]
Engine = Annotated[
    str,
    typer.Option(metavar="KIND:URL", help="Where the model runs: vllm:http://..., sglang:http://...; here if none."),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
AgentName = Annotated[str, typer.Argument(metavar="NAME", help="An agent, as 'palmette agents list' names it.")]
AgentFile = Annotated[Path | None, typer.Option(metavar="TOML", help="An agent of your own instead (docs/agents.md).")]
AgentVersion = Annotated[str, typer.Option(metavar="V", help="Another version than the one that was tested.")]
Trust = Literal["blind", "trials", "discount"]
RUNS = Path("runs")
_TEAM = "Teams of agents (runs of kind marl)"


@app.command()
def run(
    recipe: Recipe,
    sets: Sets = None,
    name: Annotated[str, typer.Option(help="Name of the run; the recipe's name if not given.")] = "",
    runs: Runs = RUNS,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move a run of that name aside and start anew.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on if there is a run of that name.")] = False,
    journal: Annotated[bool, typer.Option("--journal", help="Same as --set gateway.journal=true.")] = False,
) -> None:
    """Train as a recipe says, from tasks to a report."""
    from palmette.commands import run as command

    changed = [*(sets or []), *(["gateway.journal=true"] if journal else [])]
    raise typer.Exit(command.start(recipe, changed, name=name, runs=runs, fresh=fresh, resume=resume))


@app.command()
def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name or directory of a run.")], runs: Runs = RUNS
) -> None:
    """Go on with a run that was interrupted, from where it stood."""
    from palmette.commands import run as command

    raise typer.Exit(command.resume(run, runs=runs))


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="palmette:base, a model directory, RUN or RUN:STAGE.")],
    tasks: Annotated[list[str] | None, typer.Option(metavar="DIR|DOMAIN", help="Tasks to attempt; repeatable.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Tasks to generate per domain.")] = 50,
    tier: Annotated[list[int] | None, typer.Option(help="Difficulty of generated tasks; repeatable.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Attempts a task.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of one turn.")] = 256,
    concurrency: Annotated[int, typer.Option(min=1, help="Attempts at the same time.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of tasks and sampling.")] = 0,
    scaffold: Annotated[str, typer.Option(help="Program that drives the model.")] = "loop",
    sandbox: Annotated[str, typer.Option(help="Host of the sandboxes.")] = "namespace",
    engine: Engine = "",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play.", rich_help_panel=_TEAM)] = 256,
    loss: Annotated[float, typer.Option(min=0, max=1, help="Share of messages lost.", rich_help_panel=_TEAM)] = 0.0,
    acknowledged: Annotated[bool, typer.Option(help="Senders learn what was lost.", rich_help_panel=_TEAM)] = False,
    noise: Annotated[float, typer.Option(min=0, help="Noise in messages, in deviations.", rich_help_panel=_TEAM)] = 0.0,
    liar: Annotated[list[int] | None, typer.Option(help="Agent that lies; repeatable.", rich_help_panel=_TEAM)] = None,
    trust: Annotated[Trust, typer.Option(help="What decides whom to hear.", rich_help_panel=_TEAM)] = "blind",
    sets: Sets = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Measure a model on tasks: pass@1 with its 95 % interval, by domain. Or a team of a marl run, at its game."""
    from palmette.commands import evaluate as command
    from palmette.commands.locate import find_team

    if (team := find_team(model, runs)) is not None:
        from palmette.commands.evaluate_team import TeamPlan, evaluate_team

        channel = {"loss": loss, "acknowledged": acknowledged, "noise": noise, "liars": tuple(liar or ())}
        how = TeamPlan(episodes=episodes, channel=channel, trusting=trust)
        evaluate_team(team, how, overrides=sets or [], as_json=json)
        return
    if sets:
        raise UserError("--set is for teams of agents: it changes their game, such as scout.scouts=5")
    if not tasks:
        raise UserError("--tasks is missing: a directory of tasks, or a domain such as --tasks terminal")
    plan = command.Plan(
        tasks=tuple(tasks),
        count=count,
        tiers=tuple(tier or ()),
        samples=samples,
        temperature=temperature,
        max_tokens=max_tokens,
        scaffold=scaffold,
        concurrency=concurrency,
        seed=seed,
        sandbox=sandbox,
        engine=engine,
    )
    command.evaluate_model(model, plan, runs=runs, as_json=json)


@app.command()
def view(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name or directory of a run.")],
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Show where a run stands, and write its report."""
    from palmette.commands import view as command

    command.view(run, runs=runs, as_json=json)


@app.command()
def config(recipe: Recipe, sets: Sets = None, json: Json = False) -> None:
    """Print a recipe with every value resolved."""
    from palmette.commands import config as command

    command.show(recipe, sets or [], as_json=json)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="palmette:base, a model directory, RUN or RUN:STAGE.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    key: Annotated[str, typer.Option(help="API key to ask for; any is accepted if not given.")] = "",
    engine: Engine = "",
    drain: Annotated[float, typer.Option(min=0.0, help="Seconds to finish what is under way, when stopped.")] = 30.0,
    processes: Annotated[int, typer.Option(min=1, help="Processes that answer, beside the one with the engine.")] = 1,
    max_delay: Annotated[
        float, typer.Option(min=0.0, help="Milliseconds to wait in the gateway before 429 is said; 0 waits for ever.")
    ] = 0.0,
    runs: Runs = RUNS,
) -> None:
    """Answer the OpenAI protocol with a model."""
    from palmette.commands import serve as command

    wide = {"processes": processes, "max_delay_s": max_delay / 1000 or None}
    command.serve(model, host=host, port=port, key=key, runs=runs, engine=engine, drain_s=drain, **wide)


@app.command()
def doctor(json: Json = False) -> None:
    """Check this machine, and say what will not work and why."""
    from palmette import doctor as command

    raise typer.Exit(command.examine(as_json=json))


@agents_app.command("list")
def agents_list(json: Json = False) -> None:
    """List the agents: ours, and those in agents/ of this directory."""
    from palmette.commands import agents

    agents.list_agents(as_json=json)


@agents_app.command("install")
def agents_install(
    name: AgentName = "", file: AgentFile = None, version: AgentVersion = "", json: Json = False
) -> None:
    """Install an agent into an environment of its own."""
    from palmette.commands import agents

    agents.install_agent(name, file=file, version=version, as_json=json)


@agents_app.command("try")
def agents_try(
    name: AgentName = "",
    file: AgentFile = None,
    version: AgentVersion = "",
    task: Annotated[str, typer.Option(metavar="DIR|TEXT", help="A task directory, or an instruction.")] = "",
    engine: Annotated[
        str, typer.Option(help="scripted, local (the model in this process), or vllm:URL, sglang:URL, URL.")
    ] = "scripted",
    model: Annotated[str, typer.Option(help="Of --engine local, or whose tokenizer and template.")] = "palmette:base",
    sandbox: Annotated[str, typer.Option(help="Host of the sandboxes.")] = "namespace",
    runs: Runs = RUNS,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds the agent has.")] = 300.0,
    json: Json = False,
) -> None:
    """Let an agent do one task in a sandbox, and show the tree of tokens it leaves."""
    from palmette.commands import try_agent

    plan = try_agent.Plan(task=task, engine=engine, model=model, runs=runs, sandbox=sandbox, timeout_s=timeout)
    raise typer.Exit(try_agent.try_agent(name, plan, file=file, version=version, as_json=json))


@sandbox_app.command("shell", context_settings={"ignore_unknown_options": True})
def sandbox_shell(
    image: Annotated[str, typer.Argument(help="An image, what to make one from, or the id of a running sandbox.")] = "",
    command: Annotated[list[str] | None, typer.Argument(help="What to run instead of a shell.")] = None,
    sandbox: Annotated[str, typer.Option(help="Host of the sandboxes.")] = "namespace",
    allow: Annotated[list[str] | None, typer.Option(help="A host it may reach: [*.]NAME[@NETWORK][:PORT].")] = None,
) -> None:
    """Open a shell in a fresh sandbox, gone when the shell ends; or, by its id, in one that runs (see ls)."""
    from palmette.commands import sandbox as sandboxes

    image = "" if image == "host" else image
    raise typer.Exit(sandboxes.shell(image, host=sandbox, command=command or (), network=allow or ()))


@sandbox_app.command("ls")
def sandbox_ls(json: Json = False) -> None:
    """List the sandboxes on this machine: whose, how old, what they use."""
    from palmette.commands import ledger

    ledger.list_sandboxes(as_json=json)


@sandbox_app.command("top")
def sandbox_top(
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    by: Annotated[str, typer.Option(help="memory, cpu or age.")] = "memory",
) -> None:
    """Watch the sandboxes that use most."""
    from palmette.commands import ledger

    if by not in ("memory", "cpu", "age"):
        raise UserError(f"--by {by}: sandboxes are ordered by memory, cpu or age")
    ledger.watch(every_s=every, by=by)


@sandbox_app.command("gc")
def sandbox_gc(json: Json = False) -> None:
    """End what killed programs left behind, and remove images over the budget."""
    from palmette.commands import ledger

    raise typer.Exit(ledger.collect(as_json=json))


@images_app.command("list")
def images_list(json: Json = False) -> None:
    """List the images, what they were made from and what they take."""
    from palmette.commands import sandbox

    sandbox.list_images(as_json=json)


@images_app.command("build")
def images_build(
    source: Annotated[str, typer.Argument(help="Dockerfile, directory, tar, tasks, or debootstrap[:SUITE+PACKAGE].")],
    name: Annotated[str, typer.Option(help="What FROM and --image call it, such as debian:bookworm.")] = "",
    network: Annotated[bool, typer.Option("--network", help="Let RUN reach the network.")] = False,
) -> None:
    """Make an image without Docker, or those that a directory of tasks needs."""
    from palmette.commands import sandbox

    sandbox.build_image(source, name=name, network=network)


@images_app.command("rm")
def images_rm(image: Annotated[str, typer.Argument(help="Name or id.")]) -> None:
    """Remove an image."""
    from palmette.commands import sandbox

    sandbox.remove_image(image)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"palmette {palmette.__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; a failure that the user can mend is one line on standard error."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' own bars would break into ours
    try:
        code: Any = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        _drop_output()
        return 0
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        if message:
            print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


def explain(error: BaseException) -> str | None:
    """Return what to tell the user: one line, nothing if it has been said, or None for a bug of ours."""
    while isinstance(error, BaseExceptionGroup):  # of tasks that ran at the same time, the first to fail
        error = error.exceptions[0]
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, TyperException):
        message = error.format_message().rstrip(".")
        return f"{message[:1].lower()}{message[1:]}; see 'palmette --help'" if message else ""
    if _says_disk_full(error):
        _drop_output()
        where = f" (while writing {error.filename})" if isinstance(error, OSError) and error.filename else ""
        return f"the disk is full{where}; free some space and try again, a run with 'palmette resume'"
    return None


def _says_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC) in str(error)  # safetensors and Arrow have error types of their own


def _drop_output() -> None:
    """Send what is still unwritten nowhere, so that Python does not stumble over it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

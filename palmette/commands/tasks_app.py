"""The command line of ``palmette tasks``; what the commands do stands in `palmette.commands.tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

tasks_app = typer.Typer(no_args_is_help=True, help="Build, import, check and look at directories of tasks.")
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


@tasks_app.command("build")
def tasks_build(
    domain: Annotated[str, typer.Argument(help="A domain, such as terminal or swe.")],
    out: Annotated[Path, typer.Option(help="Where to write the task directories.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    tier: Annotated[list[int] | None, typer.Option(help="Difficulty; repeatable; all tiers if not given.")] = None,
    split: Annotated[str, typer.Option(help="train or heldout.")] = "train",
    seed: Annotated[int, typer.Option(help="The same seed makes the same tasks.")] = 0,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="swe: real projects (tasks repo); search: pages.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="search: questions over the pages, JSON lines.")] = None,
) -> None:
    """Generate tasks as Harbor task directories."""
    from palmette.commands import tasks

    tasks.build(domain, out, count=count, tiers=tier or [], split=split, seed=seed, envs=from_, questions=questions)


@tasks_app.command("repo")
def tasks_repo(
    projects: Annotated[
        list[str],
        typer.Argument(metavar="PROJECT...", help="NAME[==VERSION], npm:NAME[@VERSION], archive or directory."),
    ],
    out: Annotated[Path, typer.Option(metavar="ENVS", help="Where to keep built projects.")],
    sandbox: Annotated[str, typer.Option(help="Host of the sandboxes.")] = "namespace",
    json: Json = False,
) -> None:
    """Build environments in which the tests of real projects run, for tasks of the swe domain."""
    from palmette.commands.projects import repo

    raise typer.Exit(repo(projects, out, sandbox=sandbox, as_json=json))


@tasks_app.command("check")
def tasks_check(
    directory: Annotated[Path, typer.Argument(help="A directory of tasks.")],
    sandbox: Annotated[str, typer.Option(help="Host of the sandboxes.")] = "namespace",
    concurrency: Annotated[int, typer.Option(min=1, help="Sandboxes at the same time.")] = 8,
    quick: Annotated[bool, typer.Option("--quick", help="No attacks, and one verdict only.")] = False,
    attacks: Annotated[Path | None, typer.Option(metavar="DIR", help="Attacks of your own, NAME.sh each.")] = None,
    reject: Annotated[Path | None, typer.Option(metavar="DIR", help="Move tasks that fail there.")] = None,
    json: Json = False,
) -> None:
    """Check in sandboxes: the reference scores 1, doing nothing and every attack score 0, verdicts repeat."""
    from palmette.commands import tasks

    how = tasks.Checking(sandbox=sandbox, concurrency=concurrency, quick=quick, attacks=attacks, reject=reject)
    raise typer.Exit(tasks.check(directory, how, as_json=json))


@tasks_app.command("import")
def tasks_import(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="swe-bench, tau2, bfcl or prompts.")],
    file: Annotated[Path, typer.Argument(help="JSON lines, a JSON array, or Parquet.")],
    out: Annotated[Path, typer.Option(help="Where to write the task directories.")],
    split: Annotated[str, typer.Option(help="train, heldout, or auto: all tasks of a source on one side.")] = "auto",
    license: Annotated[str, typer.Option(help="Noted where a row names none.")] = "",
    clones: Annotated[
        Path | None,
        typer.Option("--clones", "--clone", metavar="DIR", help="swe-bench: git clones OWNER__NAME; tau2: its clone."),
    ] = None,
    json: Json = False,
) -> None:
    """Turn other people's tasks into task directories; rows that will not do are named."""
    from palmette.commands import tasks

    raise typer.Exit(tasks.import_(form, file, out, split=split, license=license, clones=clones, as_json=json))


@tasks_app.command("rephrase")
def tasks_rephrase(
    directory: Annotated[Path, typer.Argument(help="A directory of tasks.")],
    intent: Annotated[str, typer.Option(help="specification, request or colloquial.")],
    out: Annotated[Path, typer.Option(help="Where to write the task directories.")],
    url: Annotated[str, typer.Option(help="Endpoint of a model that rewrites; templates do it if none.")] = "",
    model: Annotated[str, typer.Option(help="Name of that model.")] = "",
) -> None:
    """Phrase tasks at another level of detail; files and verifier stay."""
    from palmette.commands import convert

    raise typer.Exit(convert.rephrase_all(directory, intent, out, url=url, model=model))


@tasks_app.command("as-shell")
def tasks_as_shell(
    directory: Annotated[Path, typer.Argument(help="A directory of SWE tasks.")],
    out: Annotated[Path, typer.Option(help="Where to write the task directories.")],
) -> None:
    """Tell SWE tasks as shell work: the same bug and hidden tests, with a script that finds it and a report."""
    from palmette.commands import convert

    raise typer.Exit(convert.as_shell(directory, out))


@tasks_app.command("rate")
def tasks_rate(
    directory: Annotated[Path, typer.Argument(help="A directory of tasks.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="palmette:base, a model directory, RUN or RUN:STAGE.")],
    samples: Annotated[int, typer.Option(min=1, help="Attempts a task.")] = 8,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of one turn.")] = 256,
    concurrency: Annotated[int, typer.Option(min=1, help="Attempts at the same time.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    scaffold: Annotated[str, typer.Option(help="Program that drives the model.")] = "loop",
    sandbox: Annotated[str, typer.Option(help="Host of the sandboxes.")] = "namespace",
    engine: Annotated[str, typer.Option(metavar="URL", help="Where the model runs, if not here.")] = "",
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs are kept.")] = Path("runs"),
    drop: Annotated[Path | None, typer.Option(metavar="DIR", help="Move tasks with rate 0 or 1 there.")] = None,
) -> None:
    """Measure how often a model solves each task, and note it in the task."""
    from palmette.commands import rate
    from palmette.commands.evaluate import Plan

    plan = Plan(
        tasks=(),
        count=0,
        tiers=(),
        samples=samples,
        temperature=temperature,
        max_tokens=max_tokens,
        concurrency=concurrency,
        seed=seed,
        scaffold=scaffold,
        sandbox=sandbox,
        engine=engine,
    )
    rate.rate(directory, model, plan, runs=runs, drop=drop)


@tasks_app.command("show")
def tasks_show(
    directory: Annotated[Path, typer.Argument(help="One task directory, or a directory of tasks.")], json: Json = False
) -> None:
    """Print one task: instruction, files and reference solution; or the list of tasks in a directory."""
    from palmette.commands import tasks

    tasks.show(directory, as_json=json)


@tasks_app.command("stats")
def tasks_stats(directory: Annotated[Path, typer.Argument(help="A directory of tasks.")], json: Json = False) -> None:
    """Count tasks by domain, split, tier and skill."""
    from palmette.commands import tasks

    tasks.stats(directory, as_json=json)

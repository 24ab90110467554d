"""What a command-line agent is: data, read from a TOML file, one of ours (``agents/`` beside this) or a user's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from palmette.config import load_recipe
from palmette.errors import UserError, suggest
from palmette.scaffolds.api import Stop

WORDS = ("base_url", "root_url", "api_key", "model", "task", "task_json", "home", "workdir", "bin")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WORD = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")


class Agent(BaseModel):
    """One command-line agent; its name is that of its file.

    In argv, env, files and status_file a word in braces stands for: {base_url} where the model is, ending in /v1,
    {root_url} the same without /v1, {api_key}, {model} its name, {task} the instruction and {task_json} the same as a
    JSON string, {home} the agent's HOME, {workdir} the task's directory, {bin} the agent's programs. Other braces stay
    as they are; {{word}} writes {word}.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", description="that of the file; not to be given")
    version: str = Field(default="", description="version of the agent, {version} in its packages")
    dialect: Literal["openai_chat", "openai_responses", "anthropic", "gemini"] = Field(description="what it speaks")
    registry: Literal["npm", "pypi", "none"] = Field(
        description="where it is installed from; none: it is there already"
    )
    packages: tuple[str, ...] = Field(default=(), description="exact pins, installed in this order")
    python: str = Field(default="", pattern=r"^(3\.\d+)?$", description="least version of Python it runs on, pypi only")
    directory: str = Field(default="", description="registry none: its programs, shown inside as {bin}")
    argv: tuple[str, ...] = Field(min_length=1, description="how it is started, in the task's directory")
    env: dict[str, str] = Field(default_factory=dict, description="variables, beside HOME")
    files: dict[str, str] = Field(default_factory=dict, description="path below HOME to text")
    status_file: str = Field(default="", description="JSON that tells how it ended, else the last line of its output")
    status_at: tuple[str, ...] = Field(default=(), description="keys to the word in that JSON; none: the exit code")
    stops: dict[str, Stop] = Field(
        default_factory=lambda: {"0": Stop.SUBMITTED}, description="what those words mean; any other: gave_up"
    )
    memory_mb: int = Field(default=1024, ge=64, description="memory its sandbox has at least")
    pids: int = Field(default=256, ge=8, description="processes its sandbox has at least")
    say_command: str = Field(
        default="", description="without tools: what a model says to run {command}; {command_json} is its line as JSON"
    )
    say_done: str = Field(default="Done.", description="what a model says when it is done")
    done_command: str = Field(default="", description="what a model runs when it is done, instead of saying so")

    @property
    def pins(self) -> tuple[str, ...]:
        """The packages with the version in them."""
        return tuple(package.replace("{version}", self.version) for package in self.packages)

    @field_validator("argv", "env", "files", "status_file")
    @classmethod
    def _words_are_known(cls, value: object, info: ValidationInfo) -> object:
        for text in _texts(value):
            for word in words_in(text):
                if word not in WORDS:
                    known = suggest(word, WORDS) or f"; known are {', '.join(WORDS)}"
                    raise ValueError(f"{{{word}}} stands for nothing{known} (write {{{{{word}}}}} for the braces)")
        return value

    @field_validator("files")
    @classmethod
    def _files_stay_below_home(cls, value: dict[str, str]) -> dict[str, str]:
        for path in value:
            if path.startswith("/") or ".." in Path(path).parts or not path:
                raise ValueError(f"'{path}' must be a path below HOME")
        return value

    @field_validator("say_command")
    @classmethod
    def _commands_are_said(cls, value: str) -> str:
        if value and not {"command", "command_json"} & set(words_in(value)):
            raise ValueError("needs {command} or {command_json} where the command goes")
        return value

    @model_validator(mode="after")
    def _is_installed_somehow(self) -> Self:
        if self.registry == "none" and self.packages:
            raise ValueError('packages are installed from npm or pypi, not with registry = "none"')
        if self.registry != "none" and not self.packages:
            raise ValueError(f'registry = "{self.registry}" needs packages')
        if self.registry != "none" and self.directory:
            raise ValueError('directory is for registry = "none"')
        if self.python and self.registry != "pypi":
            raise ValueError('python is for registry = "pypi"')
        needs_bin = any("bin" in words_in(text) for text in (*self.argv, *self.env.values()))
        if needs_bin and self.registry == "none" and not self.directory:
            raise ValueError('{bin} needs a directory where registry = "none"')
        return self


def read_agent(path: Path) -> Agent:
    """Return the agent that a TOML file describes. Raises `UserError` in one line: what is wrong, where."""
    agent, name = load_recipe(path, (), Agent), path.stem
    if not _NAME.fullmatch(name):
        raise UserError(f"{path}: an agent has the name of its file; letters, digits, '.', '_' and '-' only")
    if agent.name not in ("", name):
        raise UserError(f'{path}: name = "{agent.name}", but an agent has the name of its file; leave it out')
    directory = str((path.parent / Path(agent.directory).expanduser()).resolve()) if agent.directory else ""
    return agent.model_copy(update={"name": name, "directory": directory})


def filled(template: str, words: Mapping[str, str]) -> str:
    """Return the template with {word} replaced for the words that are given; other braces stay, {{word}} loses two."""
    return _WORD.sub(lambda match: f"{{{match[1]}}}" if match[1] else words.get(match[2], match[0]), template)


def words_in(template: str) -> list[str]:
    """Return the words that a template has in single braces."""
    return [match[2] for match in _WORD.finditer(template) if match[2]]


def quoted(text: str) -> str:
    """Return a text as a JSON string, as in {task_json}."""
    return json.dumps(text, ensure_ascii=False)


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        return (value,)
    return tuple(value.values()) if isinstance(value, dict) else tuple(value)  # pyright: ignore[reportArgumentType]

"""The subset of Dockerfiles: what is understood, and that the rest is refused by name with a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.errors import UserError
from palmette.sandbox.dockerfile import Copy, Dockerfile, Run, read_dockerfile


def read(directory: Path, text: str) -> Dockerfile:
    directory.mkdir(exist_ok=True)
    (directory / "Dockerfile").write_text(text)
    return read_dockerfile(directory / "Dockerfile")


def test_a_whole_file(tmp_path: Path):
    (tmp_path / "files" / "sub").mkdir(parents=True)
    (tmp_path / "a.sh").write_text("a")
    (tmp_path / "b.sh").write_text("b")
    found = read(
        tmp_path,
        """# comment
ARG VERSION=12
FROM debian:${VERSION} AS base
ENV A=1 B="two words" \\
    SAME=[$A]
ENV C=$A-${NOTHING:-default}
ENV OLD the old form
LABEL x=y
WORKDIR /srv
WORKDIR app
COPY files/ ./
COPY *.sh /bin/
# between
RUN echo "$A" && \\
    # inside
    echo done
RUN ["printf", "%s", "$A"]
COPY a.sh renamed
CMD ["sleep", "1"]
""",
    )
    assert found.base == "debian:12"
    assert dict(found.env) == {"A": "1", "B": "two words", "SAME": "[]", "C": "1-default", "OLD": "the old form"}
    assert found.workdir == "/srv/app"
    targets = [(s.source.name, s.target) for s in found.steps if isinstance(s, Copy)]
    assert targets == [
        ("files", "/srv/app"),
        ("a.sh", "/bin/a.sh"),
        ("b.sh", "/bin/b.sh"),
        ("a.sh", "/srv/app/renamed"),
    ]
    runs = [step for step in found.steps if isinstance(step, Run)]
    assert [run.argv[-1] for run in runs] == ['echo "$A" &&     echo done', "$A"]
    assert (runs[0].argv[:2], runs[1].argv) == (("/bin/sh", "-c"), ("printf", "%s", "$A"))
    assert (runs[0].workdir, runs[0].line, dict(runs[0].arguments)) == ("/srv/app", 14, {"VERSION": "12"})
    assert [copy.target for copy in found.copies] == ["/srv/app/renamed"]
    assert len(found.built.steps) == 5


def test_what_is_set_after_the_last_command_is_not_part_of_what_is_built(tmp_path: Path):
    found = read(tmp_path, "FROM x\nENV A=1\nWORKDIR /one\nRUN true\nENV A=2\nWORKDIR /two\n")
    assert (dict(found.env), found.workdir) == ({"A": "2"}, "/two")
    assert (dict(found.built.env), found.built.workdir) == ({"A": "1"}, "/one")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("FROM x\nENTRYPOINT /serve", r":2: ENTRYPOINT: .*agent starts"),
        ("FROM x\nUSER nobody", r":2: USER: .*own user"),
        ("FROM x\nVOLUME /data", ":2: VOLUME: .*drop the line"),
        ("FROM x\nHEALTHCHECK CMD true", r":2: HEALTHCHECK: .*task\.toml"),
        ('FROM x\nSHELL ["bash"]', ":2: SHELL: .*bash -c"),
        ("FROM x\nONBUILD RUN true", ":2: ONBUILD: "),
        ("FROM x\nFRUM y", ":2: FRUM: is outside the subset"),
        ("FROM x\nFROM y", ":2: FROM: .*stages"),
        ("FROM --platform=linux/amd64 x", ":1: FROM: takes the name"),
        ("RUN true\nFROM x", ":1: RUN: stands before FROM"),
        ("FROM x\nRUN --mount=type=cache true", ":2: RUN: --mount is not understood"),
        ("FROM x\nRUN <<EOF", ":2: RUN: here-documents"),
        ("FROM x\nRUN", ":2: RUN: takes a command"),
        ("FROM x\nCOPY --chown=a:b Dockerfile /", ":2: COPY: --chown is not understood; use RUN chown"),
        ("FROM x\nCOPY Dockerfile", ":2: COPY: takes sources and a target"),
        ("FROM x\nCOPY missing /", ":2: COPY: missing is not in the context"),
        ("FROM x\nCOPY ../secret /", r":2: COPY: \.\./secret climbs out"),
        ("FROM x\nCOPY a/../../secret /", "climbs out"),
        ("FROM x\nCOPY link /", ":2: COPY: link is a link out of the context"),
        ("FROM x\nADD https://x.invalid/y /", ":2: ADD: https://x.invalid/y is not a file of the context"),
        ("FROM x\nADD a.tar.gz /", ":2: ADD: unpacking archives"),
        ("FROM x\nENV =1", ":2: ENV: takes NAME=VALUE"),
        ("# nothing", "no FROM"),
    ],
)
def test_the_rest_is_refused_in_one_line(tmp_path: Path, text: str, named: str):
    (tmp_path / "secret").write_text("x")
    context = tmp_path / "context"
    context.mkdir()
    (context / "link").symlink_to("../secret")
    (context / "a.tar.gz").write_text("")
    with pytest.raises(UserError, match=named) as caught:
        read(context, text)
    assert "\n" not in str(caught.value)


@given(
    values=st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True), st.text("ab $\"'\\ =#é"), max_size=4)
)
def test_quoted_values_come_through(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]):
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'

    lines = [f"ENV {name}={quoted(value)}" for name, value in values.items() if "\\" not in value]
    found = read(tmp_path_factory.mktemp("env"), "\n".join(["FROM x", *lines]))
    assert dict(found.env) == {name: value for name, value in values.items() if "\\" not in value}

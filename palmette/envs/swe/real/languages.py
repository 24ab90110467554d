"""The languages by name; to add one, write its file and add a line here."""

from __future__ import annotations

from palmette.envs.swe.real.javascript import JavaScript
from palmette.envs.swe.real.project import Language
from palmette.envs.swe.real.python import Python

LANGUAGES: dict[str, Language] = {"python": Python(), "javascript": JavaScript()}

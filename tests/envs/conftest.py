"""What most tests of environments need."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from palmette.sandbox.api import Host
from palmette.sandbox.hosts import open_host


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = open_host("namespace")
    yield host
    await host.close()

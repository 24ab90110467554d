"""What tests of more than one area need."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from palmette.envs.web.judge.browser import MISSING, find_browser
from palmette.envs.web.plan import AXE_CORE
from palmette.errors import UserError
from palmette.registry import UNREACHABLE, npm_file

# A shell ignores Ctrl-C for what a script starts in the background, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what judges pages where there is no browser."""
    for item in [] if find_browser() else items:
        params = getattr(item, "callspec", None)
        runs = "host" in getattr(item, "fixturenames", ()) or item.get_closest_marker("slow")
        if params and params.params.get("name") == "web" and runs:
            item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def axe_or_none() -> str | None:
    """axe-core's text, or None where npm or its registry is missing."""
    try:
        return npm_file(AXE_CORE["package"], AXE_CORE["path"], AXE_CORE["sha256"]).read_text(encoding="utf-8")
    except UserError as error:
        if UNREACHABLE in str(error) or "install Node.js" in str(error):
            return None
        raise


@pytest.fixture(scope="session")
def axe(axe_or_none: str | None) -> str:
    """axe-core's text; tests that need it are left out where it cannot be had."""
    if axe_or_none is None:
        pytest.skip("axe-core cannot be fetched here")
    return axe_or_none


@pytest.fixture(scope="session")
def exact() -> Any:
    """A context in which models in fp64 stay there, where they would pass through fp32: norms, softmaxes, positions.

    Other dtypes are left alone. Backward passes run outside of it.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Exact(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
                if func is torch.Tensor.float or (func is torch.Tensor.to and torch.float32 in args):
                    return args[0]
                if kwargs.get("dtype") == torch.float32:
                    kwargs["dtype"] = torch.float64
            return func(*args, **kwargs)

    return Exact

"""Tool protocols by name."""

from __future__ import annotations

from palmette.scaffolds.protocols.api import ToolProtocol
from palmette.scaffolds.protocols.code import Code
from palmette.scaffolds.protocols.functions import Functions
from palmette.scaffolds.protocols.object import Object
from palmette.scaffolds.protocols.text import Text
from palmette.scaffolds.protocols.xml import Xml

PROTOCOLS: dict[str, ToolProtocol] = {
    "functions": Functions(),
    "code": Code(),
    "xml": Xml(),
    "text": Text(),
    "json": Object(),
}

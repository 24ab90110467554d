"""One page in a browser: opened at a size, looked at, clicked and typed into as a person would, from outside of it.

No question is answered by JavaScript that the page could have changed: selectors, layout, styles and hits are the
browser's own (domains DOM and DOMSnapshot), and what is done are real input events.
"""

from __future__ import annotations

import base64
import time

from .browser import Browser, Unanswered
from .png import Picture, read_png
from .seen import STYLES, Box, Node, Seen
from .site import ORIGIN, Site

SIZES = {"desktop": (1920, 1080), "phone": (390, 844)}
_MOST_NODES = 30_000
_MOST_NOTES = 50
_MOST_NAVIGATIONS = 30
_KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "Backspace": (8, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
    "Home": (36, ""),
    "End": (35, ""),
    "PageUp": (33, ""),
    "PageDown": (34, ""),
    " ": (32, " "),
}


class Missed(Exception):
    """A check does not hold; the text says why, for whoever reads the log."""


class Page:
    """A tab of its own, with nothing kept from others. `notes` are what a well-behaved page does not cause."""

    def __init__(
        self, browser: Browser, site: Site, size: str = "desktop", *, load_s: float = 10.0, axe: str = ""
    ) -> None:
        """Open a tab of one of `SIZES` for a site; a page may take `load_s` to load; `axe` is axe-core's text."""
        self.browser = browser
        self.axe = axe
        self.audits: dict[int, dict] = {}  # what axe-core has found, by the step that asked
        self.site = site
        self.width, self.height = SIZES[size]
        self.notes: list[str] = []
        self.load_s = 0.0
        self._load_limit_s = load_s
        self._loaded = self._crashed = False
        self._left = ""
        self._navigations = 0
        self._seen: Seen | None = None
        self._drawn: set[tuple[int, str, str]] = set()  # texts whose pixels have been looked at
        self._session = ""
        browser.on_event = self._on_event
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call(
            "Target.createTarget", {"url": "about:blank", "browserContextId": self._context, "width": self.width}
        )
        attached = browser.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        self._session = attached["sessionId"]
        self._frame = target["targetId"]  # the main frame has its tab's name
        self._prepare(size)

    def open(self, path: str, query: str = "") -> None:
        """Load a file of the site. Raises `Missed` for one that is missing or does not finish loading in time."""
        self._loaded, self._seen, began_s = False, None, time.monotonic()
        self.call("Page.navigate", {"url": f"{ORIGIN}/{path}{query}"})
        self.wait_loaded()
        self.load_s = time.monotonic() - began_s

    def wait_loaded(self) -> None:
        """Wait for the end of loading. Raises `Missed`."""
        self.browser.listen(self._load_limit_s, lambda: self._loaded or self._crashed or bool(self._left))
        if self._crashed:
            raise Missed("the page crashed")
        if self._left:
            raise Missed(f"the page tries to leave for {self._left}")
        if not self._loaded:
            raise Missed(f"the page does not finish loading in {self._load_limit_s:.0f} s")
        counters = self.call("Memory.getDOMCounters")
        if counters["nodes"] > _MOST_NODES:
            raise Missed(f"the page has {counters['nodes']} nodes, at most {_MOST_NODES} are looked at")

    def reload(self) -> None:
        """Load the page again. Raises `Missed`."""
        self._loaded, self._seen = False, None
        self.call("Page.reload", {"ignoreCache": True})
        self.wait_loaded()

    def resize(self, size: str) -> None:
        """Go on at another of `SIZES`."""
        self.width, self.height = SIZES[size]
        self._set_size(size)

    def seen(self, more: tuple[str, ...] = ()) -> Seen:
        """Return what is there now; `more` are computed styles beside those of `seen.STYLES`."""
        if self._seen is None or more:
            styles = tuple(dict.fromkeys((*STYLES, *more)))
            snapshot = self.call(
                "DOMSnapshot.captureSnapshot", {"computedStyles": list(styles), "includePaintOrder": False}
            )
            self._seen = Seen(snapshot, styles)
        return self._seen

    def forget(self) -> None:
        """Look anew the next time, after what has happened until now."""
        self.browser.listen(0.0)
        self._seen = None

    def find(self, selector: str, more: tuple[str, ...] = ()) -> list[Node]:
        """Return the elements that match a CSS selector, in document order. Raises `Missed` for what is none."""
        root = self.call("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
        numbers = self.call("DOM.querySelectorAll", {"nodeId": root, "selector": selector})["nodeIds"]
        backends = [self.call("DOM.describeNode", {"nodeId": n})["node"]["backendNodeId"] for n in numbers[:200]]
        seen = self.seen(more)
        return [node for each in backends if (node := seen.node(each))]

    def one(self, selector: str, text: str = "") -> Node:
        """Return the only element that matches (and has that text). Raises `Missed`."""
        found = self.find(selector)
        if text:
            found = [node for node in found if self.seen().text(node) == text]
        if len(found) != 1:
            raise Missed(
                f"{selector}{f' with the text {text!r}' if text else ''} matches {len(found)} elements, not one"
            )
        return found[0]

    def why_hidden(self, node: Node) -> str:
        """Return why a person at this screen cannot see an element, or ""; scrolls to it."""
        if why := self.seen().hidden(node, self.width):
            return why
        spot = self._spot(node)
        if spot is None:
            return "cannot be scrolled to"
        allowed = (*self.seen().subtree(node), *self.seen().ancestors(node))  # beside a thin line is what is around it
        if self._hit(spot) not in {each.backend for each in allowed}:
            return "is covered by something else"
        text = self.seen().text(node)
        drawn = (node.backend, text, node.style.get("color", ""))
        if text and drawn not in self._drawn and self._is_flat(node):
            return "has text of the colour of what is behind it"
        self._drawn.add(drawn)
        return ""

    def click(self, node: Node) -> None:
        """Click an element in its middle. Raises `Missed` where something else would be hit."""
        spot = self._spot(node)
        if spot is None or node.style.get("visibility") != "visible":
            raise Missed(f"{_called(node)} cannot be clicked: it has no place on the screen")
        if self.is_covered(node):
            raise Missed(f"{_called(node)} cannot be clicked: something covers it")
        self._mouse("mouseMoved", spot)
        self._mouse("mousePressed", spot, button="left", clickCount=1)
        self._mouse("mouseReleased", spot, button="left", clickCount=1)
        self._acted()

    def is_covered(self, node: Node) -> bool:
        """Say whether a click on the middle of an element would hit something else; scrolls to it."""
        spot = self._spot(node)
        return spot is None or self._hit(spot) not in {each.backend for each in self.seen().subtree(node)}

    def hover(self, node: Node) -> None:
        """Move the pointer over an element. Raises `Missed`."""
        spot = self._spot(node)
        if spot is None:
            raise Missed(f"{_called(node)} has no place on the screen")
        self._mouse("mouseMoved", spot)
        self._acted()

    def type(self, text: str) -> None:
        """Type into what has the focus, key by key."""
        for letter in text:
            self.press(letter)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key: one of `_KEYS` or a character."""
        code, text = _KEYS.get(key, (ord(key[0].upper()) if len(key) == 1 and key.isalnum() else 0, key))
        name = "Space" if key == " " else f"Key{key.upper()}" if len(key) == 1 and key.isalpha() else key
        event = {"key": key, "code": name, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        down = {**event, "text": text, "unmodifiedText": text} if text else event
        self.call("Input.dispatchKeyEvent", {"type": "keyDown" if text else "rawKeyDown", **down})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **event})
        self._acted()

    def path(self) -> str:
        """Return where the page is now, below the site: "page.html#part"."""
        history = self.call("Page.getNavigationHistory")
        url = history["entries"][history["currentIndex"]]["url"]
        return url.removeprefix(ORIGIN + "/") if url.startswith(ORIGIN + "/") else url

    def world(self) -> int:
        """Return a JavaScript world of its own: it shares the page's document and none of its objects."""
        asked = {"frameId": self._frame, "worldName": "judge"}
        return self.call("Page.createIsolatedWorld", asked)["executionContextId"]

    def picture(self, clip: Box | None = None, *, scale: float = 1.0, full: bool = False) -> bytes:
        """Return what is on the screen as a PNG; `clip` is in page coordinates."""
        asked: dict = {"format": "png", "captureBeyondViewport": bool(clip or full), "optimizeForSpeed": bool(clip)}
        if full and clip is None:
            seen = self.seen()
            clip = (0.0, 0.0, float(self.width), min(max(seen.height, float(self.height)), 4.0 * self.height))
        if clip is None and scale != 1.0:
            clip = (0.0, 0.0, float(self.width), float(self.height))
        if clip:
            asked["clip"] = {"x": clip[0], "y": clip[1], "width": clip[2], "height": clip[3], "scale": scale}
        return base64.b64decode(self.call("Page.captureScreenshot", asked)["data"])

    def pixels(self, clip: Box, *, most: int = 120) -> Picture:
        """Return the pixels of a part of the page, at most `most` wide and high."""
        scale = min(1.0, most / max(clip[2], clip[3], 1.0))
        return read_png(self.picture(clip, scale=scale))

    def close(self) -> None:
        """Close the tab and forget all of it."""
        self.browser.on_event = lambda *_: None
        self.browser.send("Target.disposeBrowserContext", {"browserContextId": self._context})

    def call(self, method: str, params: dict | None = None) -> dict:
        """Ask the tab something of the protocol. Raises `Missed` where the page keeps it from answering."""
        try:
            return self.browser.call(method, params, session=self._session, limit_s=self._load_limit_s)
        except Unanswered as error:
            if self._crashed:
                raise Missed("the page crashed") from None
            raise Missed(f"the page does not answer: {error}") from None

    def _prepare(self, size: str) -> None:
        agent = self.browser.call("Browser.getVersion")["userAgent"].replace("Headless", "")
        ahead = [
            ("Page.enable", {}),
            ("DOM.enable", {}),
            ("Runtime.enable", {}),
            ("Log.enable", {}),
            ("Network.enable", {}),
            ("Network.setBypassServiceWorker", {"bypass": True}),
            ("Fetch.enable", {"patterns": [{"urlPattern": "*"}]}),
            ("Emulation.setUserAgentOverride", {"userAgent": agent}),
            ("Emulation.setFocusEmulationEnabled", {"enabled": True}),
        ]
        for method, params in ahead:
            self.browser.send(method, params, session=self._session)
        refuse = {"behavior": "deny", "browserContextId": self._context, "eventsEnabled": True}
        self.browser.send("Browser.setDownloadBehavior", refuse)
        self.browser.send("Target.setDiscoverTargets", {"discover": True})
        self._set_size(size)

    def _set_size(self, size: str) -> None:
        width, height = SIZES[size]
        phone = size == "phone"
        self.call(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone},
        )
        self._seen = None

    def _acted(self) -> None:
        self._seen = None
        self.browser.listen(0.0)
        if self._crashed:
            raise Missed("the page crashed")

    def _spot(self, node: Node) -> tuple[float, float] | None:
        """Scroll to an element and return the middle of its visible part in the window, or None."""
        try:
            self.call("DOM.scrollIntoViewIfNeeded", {"backendNodeId": node.backend})
            quads = self.call("DOM.getContentQuads", {"backendNodeId": node.backend})["quads"]
        except Missed as why:
            if "answer: DOM." in str(why) and "longer" not in str(why):
                return None
            raise
        for quad in quads:
            left, right = max(min(quad[0::2]), 0.0), min(max(quad[0::2]), float(self.width))
            top, bottom = max(min(quad[1::2]), 0.0), min(max(quad[1::2]), float(self.height))
            if right - left > 0.5 and bottom - top > 0.5:
                return (left + right) / 2, (top + bottom) / 2
        return None

    def _hit(self, spot: tuple[float, float]) -> int:
        window = self.call("Page.getLayoutMetrics")["cssLayoutViewport"]  # the answer is by place in the document
        x, y = int(spot[0] + window["pageX"]), int(spot[1] + window["pageY"])
        asked = {"x": x, "y": y, "includeUserAgentShadowDOM": False}
        try:
            return self.call("DOM.getNodeForLocation", asked)["backendNodeId"]
        except Missed:
            return -1

    def _is_flat(self, node: Node) -> bool:
        """Say whether an element's text leaves no trace in the pixels where it should be."""
        boxes = [box for each in self.seen().subtree(node) for box in each.text_boxes if box[2] > 1 and box[3] > 1]
        for x, y, width, height in boxes[:3]:
            rows = self.pixels((x, y, min(width, 160.0), min(height, 60.0)), most=160).rows
            tones = [channel for row in rows for pixel in row for channel in pixel]
            if max(tones, default=0) - min(tones, default=0) > 24:
                return False
        return bool(boxes)

    def _mouse(self, kind: str, spot: tuple[float, float], **more: object) -> None:
        self.call("Input.dispatchMouseEvent", {"type": kind, "x": spot[0], "y": spot[1], **more})

    def _note(self, text: str) -> None:
        if len(self.notes) < _MOST_NOTES:
            self.notes.append(text[:200])

    def _on_event(self, method: str, params: dict, session: str) -> None:
        if method == "Target.targetCreated":
            self._on_target(params["targetInfo"])
        if not session or session != self._session:
            return
        if method == "Fetch.requestPaused":
            self._on_request(params)
        elif method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            told = params["exceptionDetails"]
            self._note(
                "an uncaught exception: " + str(told.get("exception", {}).get("description") or told.get("text"))
            )
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            said = " ".join(str(each.get("value", each.get("description", ""))) for each in params["args"][:4])
            self._note("an error in the console: " + said)
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            if params["entry"]["source"] not in ("network", "javascript"):  # these are told elsewhere
                self._note(f"an error in the log: {params['entry']['text']}")
        elif method == "Page.javascriptDialogOpening":
            self._note(f"a dialog ({params['type']}): {params['message'][:80]}")
            self.browser.send("Page.handleJavaScriptDialog", {"accept": True}, session=session)
        elif method == "Network.webSocketCreated":
            self._note(f"a connection to {params['url'][:100]}")
        elif method == "Page.windowOpen":
            self._note(f"a new window for {params['url'][:100]}")
        elif method == "Inspector.targetCrashed":
            self._crashed = True

    def _on_request(self, params: dict) -> None:
        url, document = params["request"]["url"], params.get("resourceType") == "Document"
        self._navigations += document
        if document and self._navigations > _MOST_NAVIGATIONS:
            self._note("it loads itself again and again")
            self.browser.send("Page.stopLoading", session=self._session)
        refused, missing = len(self.site.refused), len(self.site.missing)
        method, answer = self.site.answer(params["requestId"], url)
        if len(self.site.refused) > refused:
            self._note(f"{'it tries to leave for' if document else 'a request to'} {url[:100]}")
            if document and params.get("frameId") == self._frame:
                self._left = url[:100]
        if len(self.site.missing) > missing:
            self._note(self.site.missing[-1])
        self.browser.send(method, answer, session=self._session)

    def _on_target(self, info: dict) -> None:
        if info["type"] == "page" and info.get("openerId"):
            self._note(f"a new window for {info['url'][:100]}")
            self.browser.send("Target.closeTarget", {"targetId": info["targetId"]})


def _called(node: Node) -> str:
    name = node.attributes.get("id") or node.attributes.get("class", "")
    return f"<{node.name}{' ' + name[:30] if name else ''}>"

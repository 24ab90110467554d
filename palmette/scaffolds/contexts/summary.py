"""A summary: when a request has taken too many tokens, the model sums up its work and goes on from that alone."""

from __future__ import annotations

from palmette.scaffolds.contexts.api import Ask, History, Messages

ASK = (
    "Your context is nearly full. Sum up for yourself what was asked, what you have done and found, and what is left "
    "to do, with all names and values that you still need. Answer with the summary only and call no tool."
)
SO_FAR = "This is what you have done so far, in your own words:"


class Summary:
    """Folds a history of more than `size` tokens into the opening and the model's own summary.

    The summary is asked for behind the whole history, which forks off what comes after it. Without an answer, or with
    an empty one, all stays as it is.
    """

    name = "summary"

    def __init__(self, size: int = 0) -> None:
        self.size = size or 1200

    async def shown(self, history: History, ask: Ask) -> Messages:
        """Return the messages, after folding them if it is time."""
        if history.tokens > self.size and history.answers:
            aside = History(messages=list(history.messages), opening=history.opening)
            aside.add(ASK)
            said = (await ask(aside.messages) or "").strip()
            if said:
                history.messages[:] = history.opening
                history.observed.clear()
                history.add(f"{SO_FAR}\n{said}")
            history.tokens = 0
        return history.messages

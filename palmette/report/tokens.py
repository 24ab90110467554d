"""The text of single tokens, without torch or transformers: the tokenizer file that lies in the run, read directly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import palmette


class Pieces:
    """Text of token ids; `text` of the ids put together is exactly what the tokenizer decodes."""

    def __init__(self, tokenizer_file: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))

    def texts(self, token_ids_T: Sequence[int]) -> list[str]:
        """Return one text a token; of tokens that share a character all but the last are empty.

        Special tokens are shown as they are. Ids outside the vocabulary become ``<id>``.
        """
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        texts = []
        for token_id in token_ids_T:
            if self._tokenizer.id_to_token(token_id) is None:
                texts.append(f"<{token_id}>")
                stream = DecodeStream(skip_special_tokens=False)
                continue
            texts.append(stream.step(self._tokenizer, token_id) or "")
        return texts


def find_pieces(run_path: Path, config: Mapping[str, Any]) -> Pieces | None:
    """Return the tokenizer of a run, or None when the run and its model have no `tokenizer.json` at hand.

    Looked for in the run directory itself, in its checkpoints, then where the recipe's ``model.path`` points.
    """
    model = str(config.get("model", {}).get("path", ""))
    beside = Path(palmette.__file__).parent / "model" / model.removeprefix("palmette:")
    named = beside if model.startswith("palmette:") else Path(model)
    candidates = [run_path, *sorted(each.parent for each in run_path.glob("*/**/tokenizer.json")), named]
    for directory in candidates:
        if (directory / "tokenizer.json").is_file():
            return Pieces(directory / "tokenizer.json")
    return None

"""What a decoder's layers are made of, as far as packing several sequences or a tree into one pass depends on it."""

from __future__ import annotations

from typing import Any

_LAYERS = ("full_attention", "sliding_attention")


def other_state(model: Any) -> str | None:
    """Return what of `model` is not attention over keys and values, worded to follow its name; None if nothing is."""
    config = model.config.get_text_config()
    for layer, kind in enumerate(getattr(config, "layer_types", None) or ()):
        if kind not in _LAYERS:
            return f"has a layer of type {kind!r} (layer {layer})"
    if getattr(model, "_is_stateful", False) or getattr(model.config, "is_encoder_decoder", False):
        return "keeps state other than keys and values of a decoder"
    return None


def odd_window(model: Any, windows: dict[int, int | None]) -> str | None:
    """Compare the sliding window that each layer asked attention for with the configuration.

    Returns what is odd and in which layer; None if all layers attended as they should.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = getattr(config, "layer_types", None)
    for layer in range(config.num_hidden_layers):
        sliding = window is not None and (kinds is None or kinds[layer] == "sliding_attention")
        if layer not in windows:
            return f"layer {layer} of {type(model).__name__} does not attend through transformers' attention interface"
        if windows[layer] != (window if sliding else None):
            return f"layer {layer} of {type(model).__name__} does not tell its attention its window"
    return None

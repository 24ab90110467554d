"""The HTTP boundary between agents and engines: text outside, exact tokens inside."""

"""Words to tokens and back: messages, tool calls, and the model's own chat template."""

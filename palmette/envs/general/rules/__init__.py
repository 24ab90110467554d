"""Instruction following: texts under many constraints at once, each checked by a pure function."""

"""The general domain: dialogues with a user and a backend, instructions with many constraints, memory, code, maths."""

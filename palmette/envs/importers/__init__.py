"""Other people's tasks become task directories; a row that will not do is refused with its file and line."""

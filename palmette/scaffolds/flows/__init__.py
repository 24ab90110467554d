"""What an agent is asked to do between its turns, one file each."""

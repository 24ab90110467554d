"""What the commands of `palmette.cli` do, a file each; imported only when a command runs."""

"""What runs in the sandboxes of a tau2 task: standalone files, copied into tasks."""

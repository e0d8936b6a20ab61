"""Training: the fleet that shares jobs out and the trainer that does one."""

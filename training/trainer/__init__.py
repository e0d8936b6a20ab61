"""The trainer: one job in, one folder of results out. A worker runs `training.trainer.run` as a
subprocess."""

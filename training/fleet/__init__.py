"""The fleet: one coordinator, its queue and store, and the workers that train."""

"""Measurements that the documentation quotes. Each prints JSON lines; ratios are taken within one run."""

"""The recorder of labelled episodes and its harmless workloads; see README.md in this folder."""

"""Episodes (short labelled recordings of a host) and data sets (sets of episodes, named by their digest).

`format` and `dataset` need nothing but the standard library and zstd, so a worker can verify data without numpy;
`arrays` turns a payload into numpy arrays for those who train.
"""

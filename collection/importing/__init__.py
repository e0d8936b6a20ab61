"""Other people's recordings: a folder of CSV time series becomes a data set of episodes.

    errors        what can end an import, and the faults of rows with file and line
    description   the TOML file that says what the columns mean; `toml_table` reads it key by key
    reader        a CSV file as blocks of numbers; the fast path and the exact one
    times         what stands in a time column, in microseconds
    labels        which rows are suspicious
    cutter        long series become pieces of one host and one stretch of time
    episodes      a piece becomes an episode file
    folder        all files of a folder become a data set, or nothing does
    recipes       which split recipes the data set can be used with
    summary       what was imported, in words
    progress      how far it is

`collection.import_csv` is the command line.
"""

"""Tables from files and data sets: the cells of the wanted columns, with the number of each row.

What cannot be read is collected as faults with row numbers; cells come out exactly as they stand in the file. Nothing
here knows what a text or a label may be, or what a split is.
"""

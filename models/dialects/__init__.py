"""Communication operators of other systems, read and written as ours; a dialect is a table."""

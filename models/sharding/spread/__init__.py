"""The other axes of a mesh: stages of a pipeline, and replicas that split a batch.

line        a row of things cut into runs, exactly
stages      which nodes run on which stage
counted     which numbers made of sizes are one polynomial of the batch
flow        what becomes of tensors where a replica has some rows
batch       the dims that replicas split
stand_in    sizes of a state, asked of one that is nearer
draft       the graph of one rank of a mesh while nodes are added
placement   that graph
"""

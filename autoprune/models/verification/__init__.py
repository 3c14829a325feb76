"""Proofs on the network itself of what its trace says, before anything is cut by it.

`equivalence` compares the cut network with the masked dense one and the computed cost with the counted one, `precision`
says in which numbers, and `depth` finds the groups that may vanish altogether.
"""

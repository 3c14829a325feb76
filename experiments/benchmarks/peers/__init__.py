"""autoprune beside its peers: the same networks, images, costs, scoring budget and short finetune.

Run from the repository's root, with the peers and the test requirements installed:

    pip install -e '.[peers,test]'
    python -m experiments.benchmarks.peers --plan
    python -m experiments.benchmarks.peers
    python -m experiments.benchmarks.peers --table

The first prints what would run and how long it will take, from one scoring of each kind; the second runs what is not in
the results folder yet and then writes `experiments/benchmarks/results/peers.json` and `peers.svg`; the third prints the
table of the README from the former. `plan.toml` says what is run; another plan is named as an argument.

What is the same for everybody: the trained network, the images (those that score are carved from the training set,
those that test are read once, when everything is chosen), the count of multiply-accumulates, and what a finetune is.
Every method ends with widths. The *slice* column is the method's own cut (a peer's network as it returns it, for others
our slices) with recalibrated batch norms; the *cut* column gives the same widths our sequential reconstruction, so that
search is compared with search. A scoring is one pass over the images that score. Seconds are those of the processor.
"""

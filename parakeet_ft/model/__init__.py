"""Models: NeMo checkpoints in, NeMo checkpoints out. Nothing here imports torch or NeMo until a
function is called.

source.py            paths, bundled names, hub ids -> a checked .nemo restore.py           .nemo ->
model; facts.py: what a live model is vocabulary.py        keep, extend, replace the tokenizer;
rows.py moves rows by piece and rebuilds the loss transducer_loss.py   exact RNNT and TDT losses as
wavefronts; the CPU's loss objective.py         the training loss of each family attention.py
full or local attention, subsampling in chunks interpolation.py     between base and tuned weights
export.py            model -> .nemo replicas.py          architectures of the published checkpoints,
built with random weights
"""

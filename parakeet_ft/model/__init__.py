"""Models: NeMo checkpoints in, NeMo checkpoints out. Nothing here imports torch or NeMo until a
function is called.

    checkpoints.py       the checkpoints that have a name
    source.py            paths, names, hub ids -> a .nemo; archive.py checks what is inside
    restore.py           .nemo -> model; parts.py: what a live model has and is
    vocabulary.py        keep, extend, replace the tokenizer; rows.py moves rows by piece and
                         rebuilds the loss
    transducer_loss.py   exact RNNT and TDT losses as wavefronts
    joint_loss.py        the same with the joint inside, which training uses
    objective.py         the training loss of each family
    attention.py         full or local attention, subsampling in chunks
    spec_augment.py      masks on the spectrogram
    replicas.py          architectures of the published checkpoints, built with random weights
"""

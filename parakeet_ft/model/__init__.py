"""Models: NeMo checkpoints in, NeMo checkpoints out. Nothing here imports torch or NeMo until a function is called.

    restore.py           local .nemo or hub name -> model
    vocabulary.py        keep, extend, replace the tokenizer; rows move by piece
    transducer_loss.py   exact RNNT and TDT losses as wavefronts; the CPU's loss
    attention.py         full or local attention, subsampling in chunks
    replicas.py          architectures of the published checkpoints, built with random weights
    export.py            model -> .nemo
"""

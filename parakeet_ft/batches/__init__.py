"""Manifests to batches: the plan of a run, loaders, augmentation."""

# Batches that each of a loader's workers holds ready, in shared memory.
READY_BATCHES = 4

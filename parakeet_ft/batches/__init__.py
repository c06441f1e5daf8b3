"""Manifests to batches: the plan of a run, loaders, augmentation."""

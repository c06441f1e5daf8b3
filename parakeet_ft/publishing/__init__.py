"""What others see: the hub, the model card, a page to try a model on."""

"""Several processes, one run: ranks, who starts them, weights divided among them."""

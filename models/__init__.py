"""Networks, losses and evaluation over tensors; must not know streams, events or files (never imports `streaming`)."""

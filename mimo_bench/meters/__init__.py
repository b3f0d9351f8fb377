"""One quantity each; meters watch the trainer, the trainer does not know them."""

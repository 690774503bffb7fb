"""The training loop that the RPN and CAPTURE share."""

"""Comparison with the released PyTorch code and the tables of the paper."""

"""From parameters to bits and back."""

"""The parts of a stream; `bitstream` puts them together. Standard library only, but for `blocks`."""

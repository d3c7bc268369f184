"""Codecs measured on folders of pictures: rows, summaries, plots, report."""

"""Formats that a network can be exported to; each file is read back and compared before it is kept."""

"""Depth of photographs and videos that no stage has seen: from Python, on the command line, on a web page."""

"""What was really used: requests are rewritten to their grant, answers decoded, counted and settled here; nothing in
this package decides who may do what.
"""

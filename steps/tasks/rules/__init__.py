"""Checks of rows that several tasks share.

cells.py      one value                 labels.py      all labels together
standard.py   spellings of messages     json_text.py   JSON with long numbers
messages.py   conversations             tool_calls.py  functions that a conversation calls
answers.py    answers to a prompt       counting.py    what is counted over a file
characters.py invisible and damaged texts
likeness.py   rows that are nearly equal   plain.py    rows that need no repair, checked a block at a time
"""

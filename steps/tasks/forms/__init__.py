"""Forms of rows that people have, read as rows with a task's own columns.

    {"instruction": "Add.", "input": "2 + 2", "output": "4"}                   Alpaca, for chat_completion
    → {"messages": [{"role": "user", "content": "Add.\\n2 + 2"}, {"role": "assistant", "content": "4"}]}

    table.py        the forms: their columns, for which tasks
    converting.py   the values of a row → messages, with the place in the row that each came from
    reading.py      rows in a form → rows with the task's own columns (`RowReader`)
    choosing.py     which of several possible forms is meant

A form is recognised by its columns, row by row, and counted. The declared columns win over every form, and a form whose
columns include those of another wins over that one; a row that still has two forms is refused. `row_form` forces one
form or forbids them; columns that are named explicitly forbid them too.

To add a form: its line in `table.py`, its name in `RowForm` (steps/params/chat_columns.py), and one row of it in
docs/data.md.
"""

from steps.tasks.forms.reading import READ_AS, FormColumns, ReadRow, RowReader, row_reader

__all__ = ["READ_AS", "FormColumns", "ReadRow", "RowReader", "row_reader"]

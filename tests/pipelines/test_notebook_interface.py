"""The Python interface: what each function returns, how it looks, and what a mistake raises."""

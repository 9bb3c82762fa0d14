"""Exceptions as libraries raise them, without the libraries."""


def like(module: str, name: str, text: str = "said", **attributes: object) -> Exception:
    """Make an exception as the client of a service raises it."""
    made = type(name, (Exception,), {"__module__": module})(text)
    for key, value in attributes.items():
        setattr(made, key, value)
    return made

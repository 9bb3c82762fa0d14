"""One mistake in the source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """Code that is replaced by wrong code."""

    name: str
    file: str
    """Below the root of the project."""
    before: str
    """Stands once in the file."""
    after: str
    meaning: str
    """What is wrong then."""
    tests: tuple[str, ...]
    """Test files, below tests/, of which one must fail."""
    slow: bool = False
    """Whether the tests marked as slow are needed."""
    explained: str = ""
    """Why no test can notice; empty where one must."""

    @property
    def room(self) -> str:
        """Folder of the file: steps/plan."""
        parts = self.file.split("/")
        return "/".join(parts[:2]) if len(parts) > 2 else parts[0]

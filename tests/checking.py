"""Check files in a test as prepare_data and check-data do."""

from steps.params.data import DataSource
from steps.prepare_data.check.checking import check_data as check_sources


def check_data(task, train="", validation="", test="", columns=None, seed=42, scratch=None, **source):
    """Check up to three files; further arguments are parameters of DataSource."""
    files = {"train_file_path": str(train), "validation_file_path": str(validation), "test_file_path": str(test)}
    return check_sources(task, DataSource(**files, **source), columns, seed, scratch)

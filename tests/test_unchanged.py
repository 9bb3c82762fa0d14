"""The guard over the checkout and the shared folders sees every kind of change."""

import os

from shared import SharedFolders
from unchanged import changes, snapshot


def test_what_is_new_gone_or_other_is_told_and_nothing_else(tmp_path):
    for name in ("docs/a.md", "docs/b.md", "docs/c.md", "steps/a.py", "steps/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = snapshot(tmp_path)
    assert changes(before, snapshot(tmp_path), ["docs"]) == []
    (tmp_path / "docs/a.md").write_text("other")
    os.utime(tmp_path / "docs/b.md", ns=(0, 0))
    (tmp_path / "docs/c.md").unlink()
    (tmp_path / "steps/a.py").write_text("edited by a person")
    (tmp_path / "steps/b.py").unlink()
    (tmp_path / "steps/new.py").touch()
    (tmp_path / "steps/new").mkdir()
    (tmp_path / "steps/__pycache__").mkdir()
    expected = ["docs/a.md changed", "docs/b.md changed", "docs/c.md is gone", "steps/new is new"]
    assert changes(before, snapshot(tmp_path), ["docs"]) == expected
    assert changes(before, snapshot(tmp_path)) == [*expected[:3], "steps/a.py changed", "steps/b.py is gone",
                                                   "steps/new is new", "steps/new.py is new"]  # fmt: skip


def test_a_shared_folder_is_made_once_and_a_change_of_it_is_told(tmp_path):
    asked = []

    def make(folder):
        asked.append(folder)
        folder.mkdir()
        (folder / "file").write_text("as made")
        if len(asked) == 1:
            raise OSError("no room")

    folders = [SharedFolders(tmp_path / "shared") for _ in range(2)]
    try:
        folders[0].made("base", make)
    except OSError:
        assert not (tmp_path / "shared/base").exists()
    first, second = (one.made("base", make) for one in folders)
    assert (first, len(asked)) == (second, 2)
    assert folders[0].changes() == []
    (first / "file").write_text("by a test")
    assert folders[1].changes() == ["base/file changed"]

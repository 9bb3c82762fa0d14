"""Checkpoints of a training, in a folder or in an object store, and the one from which it is resumed.

Every training has a folder named by the digest of everything that affects its result (`places.py`). A checkpoint is
valid only if it has a manifest and all files match it (`sealing.py`), so a kill during a save or an upload loses only
the steps since the previous checkpoint. `CheckpointFolder` is the folder of a training on a disk, `RemoteFolder` the
same in an object store: it is written to a local folder first, and uploaded in the background (`uploads.py`). One
process at a time uses it, by a lock of the file system or by a lock object (`steps/sources/locks.py`). The folder
remembers the task that uses it, by the path of its result, so that this task resumes when it is started again
(`resuming.py`).
"""

from steps.finetune.checkpoints.folder import CheckpointFolder, finish, is_finished, unfinish
from steps.finetune.checkpoints.places import folder_for, refuse_unwritable
from steps.finetune.checkpoints.removing import drop_broken, drop_passing, prune, remove_finished
from steps.finetune.checkpoints.resuming import preempted, resume_point
from steps.finetune.checkpoints.sealing import best_of, is_by_time, seal, steps_done

__all__ = [
    "CheckpointFolder",
    "best_of",
    "drop_broken",
    "drop_passing",
    "finish",
    "folder_for",
    "is_by_time",
    "is_finished",
    "preempted",
    "prune",
    "refuse_unwritable",
    "remove_finished",
    "resume_point",
    "seal",
    "steps_done",
    "unfinish",
]

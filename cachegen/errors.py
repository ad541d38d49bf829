"""Errors a user can cause: one typed family, shown as one line, exit code 2.

Every message says what is wrong, where, and what to do. Anything else that escapes is a bug of ours
and keeps its traceback.
"""


class CrosstaxError(Exception):
    """Base of every error a user can cause. `str(error)` is one line: what, where, what to do."""


class DatasetError(CrosstaxError):
    """A dataset folder, taxonomy or image list that cannot be used as it is."""


class StoreError(CrosstaxError):
    """A feature store that is damaged, incomplete, or made with something else."""


class ModelError(CrosstaxError):
    """An encoder or language model that cannot be loaded, or not with this engine."""


class ConditionError(CrosstaxError):
    """A condition, prompt or sweep file that asks for something impossible."""


class RunError(CrosstaxError):
    """A run directory that is damaged, in use, or belongs to another plan."""


class WriteError(RunError):
    """A file or folder that cannot be written: a full disk, permissions. It concerns all that is written there."""

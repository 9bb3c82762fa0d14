"""The parameters that all trials of a sweep share, with the reason."""

from steps.params.sweep import UNVARIED as UNVARIED

"""The step that merges an adapter into its base model; the merge itself is in `steps/adapters/`.

step.py         the step, and its options on the command line
device_map.py   checks the option device_map, which has no effect
"""

"""The step that folds an adapter into its base model; how it is done stands in `steps/adapters/`.

step.py         the step, and its options on the command line
device_map.py   reads where others would place the model; nothing is placed here
"""

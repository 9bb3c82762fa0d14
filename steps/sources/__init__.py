"""Where models, adapters, rows and code come from: what a parameter names, what it means now, and how it gets here.

    storage.py        any URI through fsspec: digests, listings, downloads
    hub.py            models and data sets of the Hugging Face Hub, by commit
    model_files.py    a model or an adapter where it lies
    data_sources.py   every file and data set of a split
    mltable.py        MLTable folders
    user_code.py      the user's own processing function

The plan looks here and pins a digest; the later step opens the same thing and refuses other bytes.
"""

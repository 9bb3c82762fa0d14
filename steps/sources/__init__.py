"""Sources of models, adapters, rows and code: resolve what a parameter names, pin it and fetch it.

    storage.py        URIs, opened through fsspec: digests, listings, downloads
    bucket_names.py   names that a bucket, container or repository can have
    credentials.py    what messages say about credentials
    downloads.py      objects fetched whole: one version, the size and digest that the store lists
    bounded.py        calls to services that come to an end
    odd_files.py      what a local folder may not hold: pipes, devices, links out of it
    plain_yaml.py     YAML that anybody may have written
    object_folder.py  objects below a URI: written, listed and deleted, for checkpoints
    locks.py          one process at a time in a folder, or below a URI
    hub.py            models and data sets on the Hugging Face Hub, by commit
    model_files.py    files of a model or adapter, before they are fetched
    data_sources.py   files and data sets of each split
    mltable.py        MLTable folders
    user_code.py      the user's own functions: processing_function and rewards

The plan pins a digest; a later step opens the same source and refuses different content.
"""

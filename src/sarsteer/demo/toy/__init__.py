"""The demo on the toy, ``sarsteer-tiny``: the pipeline in a minute, without a download. Tests use it."""

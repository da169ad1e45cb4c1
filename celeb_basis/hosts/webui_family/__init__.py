"""What AUTOMATIC1111's WebUI and the programs that grew from it are learned through in the same way.

Nothing here names a module of any of them: each has a folder of its own beside this one, which fills this in.
"""

"""How a folder comes to be where Python looks for modules, once a program has loaded its own."""

import os
import site
import sys


def look_into(folder: str, way: str) -> None:
    """Let Python look for modules in a folder."""
    # As in `python -c`: the folder in which the program is, whenever that is asked.
    sys.path[0] = ""
    if way == "working folder":
        os.chdir(folder)
    elif way == "path of a script":
        sys.path.insert(0, folder)
    elif way == "site-packages":
        site.addsitedir(folder)
    else:
        raise ValueError(way)

"""``<name>`` in any prompt of the WebUI: found in the text, fitted to the loaded checkpoint, handed to the host.

``words`` and ``listing`` find names, ``fitting`` and ``registry`` make vectors of them, ``view`` and ``chunks`` put them
into the host's own tokenizing; ``host`` alone touches the host.
"""

from __future__ import annotations

"""One adapter for each program that the extension runs in: AUTOMATIC1111's WebUI and its forks.

``running`` finds out which one it is; ``base`` says what an adapter hands out. To the rest of the extension all are alike.
"""

from __future__ import annotations

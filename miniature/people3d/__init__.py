"""Invented people in 3D: any number of different heads, in any pose, expression, light and clothes.

:mod:`~miniature.people3d.person` draws a person's features from a number, :mod:`~miniature.people3d.portrait` takes
pictures of them. The heads are shapes of MakeHuman (CC0), everything else is made here.
"""

"""The command `repro`: a failure as one Python file that needs nothing of this kit.

A failing input is halved along every dimension for as long as it still fails, then written with
what is expected and how far from it an engine may be. The file exits with 1 where the failure shows
and with 0 where it is gone.
"""

"""What becomes of a run: an HTML page with figures, JUnit, CTRF, a badge, the difference of two.

Everything is made from the results alone (`conformance.results`), so a stored run can be shown
again at any time.
"""

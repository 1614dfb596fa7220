"""Endpoints (level L6): a correct one to diff against, and checks of any other."""

"""The conformance kit: does another engine compute the same model?"""

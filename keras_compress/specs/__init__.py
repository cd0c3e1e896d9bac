"""What a user asks for: schedules, pruning, quantization, export.

Validated once, to and from a plain dict; no framework is imported.
"""

"""Usage for other systems' clients and for people: report dialects, exports, mailed reports, the explorer.

Computes no usage number itself: every one of them comes from `metering.queries`.
"""

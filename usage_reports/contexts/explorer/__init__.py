"""The explorer: any usage of one metric, over time and by groups, as its address asks for.

`address` reads the query, `view` reads the usage, `controls` says what can be chosen instead, `results` and `calls`
shape what is shown, `page` puts them together. Numbers come from `metering.queries` alone.
"""

"""The pair exam: two people or one, eight questions, and experiments to answer by.

`cellwright exam` starts it.
"""

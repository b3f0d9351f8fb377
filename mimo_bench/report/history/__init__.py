"""Runs over time: kept, compared and judged.

store.py         the history's directory: one directory a run, written once
nights.py        the numbers of a layout that are followed from night to night
comparison.py    statistical tests: exact Mann-Whitney, robust band, false discovery rate
changepoints.py  nights on which a series changed its level
expectations.py  references and expected failures, written by the user
judgement.py     a run compared with the nights before it
pair.py          two runs side by side
trend.py         the page over all nights, and the list
"""

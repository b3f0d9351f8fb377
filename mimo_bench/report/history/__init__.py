"""Runs over time: kept, held against each other, and judged without taking noise for news.

record -> [history] -> report

    store.py         one directory a run, never changed; an index in Parquet
    points.py        the few numbers of a layout that are followed from night to night
    comparison.py    what a test says: exact Mann-Whitney, robust band, Benjamini-Hochberg
    changepoints.py  where a series of nights changed its level
    expectations.py  references and expected failures, written down by people
    judgement.py     tonight against the nights before
    pair.py          two runs side by side
    simulation.py    how often all this is wrong, on histories that were made up
"""

"""What `depth bench` measures, one module a subject; results go to reports/benchmarks.json.

A module has `measure(quick)`, which returns entries. It is named in `benchmarks.__main__`.
"""

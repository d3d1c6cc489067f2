"""The parts of `bench/gpu.py`.

`cases` has jobs, shapes, types and bytes; `devices` and `dry` are the GPU and its stand-in;
`sides` the calls that are compared; `checks` compares with float64; `races`, `plans` and
`python_cost` time; `rows` and `report` write and print. Only `internals` reaches into the package.
"""
